-- Releases the lease of a run, settles the ticket that ran under it, and dispatches the tickets whose turn it is then.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  how the run ended: 'final', 'stored', 'rejected' or 'again'
--   ARGV[4]  broker whose tickets are dispatched
--   ARGV[5]  value to keep with the lock; if there is no value, ARGV[5] and ARGV[6] are missing
--   ARGV[6]  for how long
--   last     maybe 'repeat'
--
-- Returns {released, ticket, message, count, …}; or only `released` if there was no ticket and no line. `released` is 1 if
-- this request released a lease that had not passed its deadline, or can't know that; otherwise 0.
--
-- Repeats: a second copy finds no lease and no ticket under this token. A ticket whose dispatch was lost with the reply is
-- dispatched again by a sweep.

-- include prelude

local REPEAT, value, keep_value = ARGV[#ARGV] == 'repeat', ARGV[5], ARGV[6]

-- include release_sole_holder
-- include release_lease

local released, lined = release_lease()
local id = redis.call('GETDEL', LOCK .. ':runs:' .. token)
if id or lined then
  -- include grant
  -- include library
  -- include tickets
  if id then
    settle_run(id, ARGV[3])
  end
  remove_expired()
  local answer = {released}
  dispatch_or_wake(answer, ARGV[4])
  update_due()
  return answer
end
return released
