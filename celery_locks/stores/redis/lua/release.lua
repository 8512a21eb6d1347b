-- Releases a lease and wakes the first in line. A ticket that ran under it may not have ended for good.
--
-- ARGV[3] numbers of requests of this token of which copies may be under way: from now on they change nothing
-- ARGV[4] value to keep with the lock  ARGV[5] for how long; without a value both are missing  and 'repeat', see prelude
-- Returns 1 when this request released a lease that had not passed its deadline, or can't know; else 0

local REPEAT, value, keep_value = ARGV[#ARGV] == 'repeat', ARGV[4], ARGV[5]
if ARGV[3] ~= '' then
  -- include void_all
  void_all(ARGV[3])
end

-- include release_sole
-- include give_back

local released, lined = give_back()
local id = redis.call('GETDEL', LOCK .. ':runs:' .. token)
if id then
  -- include grant
  -- include library
  -- include tickets
  tidy()
  end_run(id, 'again')
  index()
end
if lined then
  -- include library
  tidy()
  wake()
end
return released
