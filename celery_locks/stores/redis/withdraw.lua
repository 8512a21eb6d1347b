-- Takes a parked ticket out of line.
--
-- ARGV[3] ticket
-- Returns {ticket, message, calls, …}: its own, and those whose turn has come by it

-- include records
-- include spread
-- include grant
-- include library
-- include tickets

local answer = {}
tidy()
local known = redis.call('HMGET', ticket(ARGV[3]), 'state', 'task')
if known[1] == 'parked' then
  put_out(answer, ARGV[3], known[2], 'revoked')
  call_or_wake(answer)
  index()
end
return answer
