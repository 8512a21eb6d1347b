-- Takes a parked ticket of a task out of line.
--
-- ARGV[3] ticket  ARGV[4] task  ARGV[5] broker
-- Returns {ticket, message, count, …}: its own, and those whose turn has come by it

-- include records
-- include spread
-- include grant
-- include library
-- include tickets

local answer = {}
tidy()
local known = redis.call('HMGET', ticket(ARGV[3]), 'state', 'task', 'broker')
if known[1] == 'parked' and known[2] == ARGV[4] and may_dispatch(known[3], ARGV[5]) then
  put_out(answer, ARGV[3], known[2], 'revoked', known[3])
  dispatch_or_wake(answer, ARGV[5])
  index()
end
return answer
