-- Takes a parked ticket of a task out of the line.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  ticket
--   ARGV[4]  task
--   ARGV[5]  broker
--
-- Returns {ticket, message, count, …} to be published: the ticket itself, and the tickets whose turn it is then.
--
-- Repeats: a second copy finds the ticket no longer parked.

-- include prelude

-- include lock_keys
-- include spread_sole_holder
-- include grant
-- include library
-- include tickets

local answer = {}
remove_expired()
local known = redis.call('HMGET', ticket_key(ARGV[3]), 'state', 'task', 'broker')
if known[1] == 'parked' and known[2] == ARGV[4] and may_dispatch(known[3], ARGV[5]) then
  take_out(answer, ARGV[3], known[2], 'revoked', known[3])
  dispatch_or_wake(answer, ARGV[5])
  update_due()
end
return answer
