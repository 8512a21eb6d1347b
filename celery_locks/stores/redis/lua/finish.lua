-- Ends a ticket whose message will not run again.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  ticket
--   ARGV[4]  owner token of the run whose result is stored; '' to end the ticket in any state
--   ARGV[5]  0 to leave a ticket alone that runs under a lease which has not expired
--
-- Repeats: a second copy finds the tombstone.

-- include prelude

-- include lock_keys
-- include spread_sole_holder
-- include grant
-- include library
-- include tickets

local id = ARGV[3]
local known = redis.call('HMGET', ticket_key(id), 'task', 'broker', 'state', 'token')
if ARGV[4] ~= '' then
  if (known[3] == 'running' or known[3] == 'ended') and known[4] == ARGV[4] then
    local owed = is_owed(id, known[3], known[2])
    redis.call('DEL', LOCK .. ':runs:' .. ARGV[4]) -- the lease was adopted: this token is not released
    leave_tombstone(id, known[2])
    if owed then
      update_due()
    end
  end
elseif known[1]
  and (ARGV[5] == '1' or known[3] ~= 'running' or tonumber(redis.call('ZSCORE', UNTIL, known[4]) or 0) <= now) then
  leave_line(id, known[1], known[2])
  remove_holder(TICKET .. id)
  leave_tombstone(id, known[2])
  update_due()
  wake_first() -- last: it may set the lock due immediately
end
return 1
