-- Releases a lease and wakes the first in line. A ticket that ran under it may not have ended for good.
--
-- ARGV[3] a name for this request: repeated after a lost reply, it gets the same answer
-- Returns 1 when this request released a lease that had not passed its deadline, else 0

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
