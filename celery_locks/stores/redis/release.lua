-- Gives the permits back and wakes the first in line.
--
-- ARGV[3] a name for this call: repeated after a lost reply, it gets the same answer
-- Returns 1 when this call gave up a lease that had not passed its deadline, else 0

-- include release_sole
-- include give_back

local released, lined = give_back()
local id = redis.call('GETDEL', LOCK .. ':runs:' .. token)
if id then
  -- include grant
  -- include library
  -- include tickets
  finish_run(id)
  index()
end
if lined then
  -- include library
  tidy()
  wake()
end
return released
