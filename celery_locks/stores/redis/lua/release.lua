-- Releases a lease and wakes the first in line. A ticket that ran under the lease may not have ended for good.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  ids of requests of this token whose copies may be under way; they are voided, see void_requests
--   ARGV[4]  value to keep with the lock; if there is no value, ARGV[4] and ARGV[5] are missing
--   ARGV[5]  for how long
--   last     maybe 'repeat'
--
-- Returns 1 if this request released a lease that had not passed its deadline, or can't know that; otherwise 0.
--
-- Repeats: a second copy finds no lease and returns 1; see release_lease.

-- include prelude

local REPEAT, value, keep_value = ARGV[#ARGV] == 'repeat', ARGV[4], ARGV[5]
if ARGV[3] ~= '' then
  -- include void_requests
  void_requests(ARGV[3])
end

-- include release_sole_holder
-- include release_lease

local released, lined = release_lease()
local id = redis.call('GETDEL', LOCK .. ':runs:' .. token)
if id then
  -- include grant
  -- include library
  -- include tickets
  remove_expired()
  settle_run(id, 'again')
  update_due()
end
if lined then
  -- include library
  remove_expired()
  wake_first()
end
return released
