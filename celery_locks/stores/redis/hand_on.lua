-- Gives the permits back, and calls those whose turn it is then.
--
-- ARGV[3] a name for this call: repeated after a lost reply, it gets the same answer
-- Returns {1 when this call gave up a lease that had not passed its deadline, else 0; ticket, message, calls; …}, or
-- that number alone when nobody is called

-- include release_sole
-- include give_back

local released, lined = give_back()
local id = redis.call('GETDEL', LOCK .. ':runs:' .. token)
if id or lined then
  -- include grant
  -- include library
  -- include tickets
  if id then
    finish_run(id)
  end
  tidy()
  local answer = {released}
  call_or_wake(answer)
  index()
  return answer
end
return released
