-- Ends the lease of a run that died, and calls those whose turn it is then. Its ticket is not done: a copy of its message
-- that comes later takes it over; if one came before, and was dropped because it ran, it is parked again.
--
-- ARGV[3] a name for this call: repeated after a lost reply, it gets the same answer
-- Returns {1 when this call gave up a lease that had not passed its deadline, else 0; ticket, message, calls; …}

-- include records
-- include spread
-- include give_back

local answer = {(give_back())}
-- include grant
-- include library
-- include tickets
local id = redis.call('GETDEL', LOCK .. ':runs:' .. token)
if id and redis.call('ZSCORE', DUE, id) then
  local run = redis.call('HMGET', ticket(id), 'state', 'token', 'number', 'until', 'task')
  if run[1] == 'running' and run[2] == token then
    park(id, run[3], tonumber(run[4] or 0), run[5])
  end
end
tidy()
call_or_wake(answer)
index()
return answer
