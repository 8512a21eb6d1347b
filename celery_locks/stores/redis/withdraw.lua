-- Takes a parked ticket out of line.
--
-- ARGV[3] ticket
-- Returns {ticket, message, calls, …}: its own, and those whose turn has come by it

-- include grant
-- include library
-- include tickets

local answer = {}
tidy()
if redis.call('HGET', ticket(ARGV[3]), 'state') == 'parked' then
  put_out(answer, ARGV[3], 'revoked')
  call_or_wake(answer)
  index()
end
return answer
