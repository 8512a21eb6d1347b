-- Does what is due in this lock.
--
-- Returns {ticket, message, calls, …}: those to be sent on

-- include records
-- include spread
-- include grant
-- include library
-- include tickets

local answer = {}
tidy()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, MOST)) do
  local known = redis.call('HMGET', ticket(id), 'state', 'number', 'until', 'token', 'task', 'why')
  local state, wait_until = known[1], tonumber(known[3] or 0)
  if state == 'parked' and wait_until > 0 and wait_until <= now then
    put_out(answer, id, known[5], 'timeout')
  elseif state == 'parked' or state == 'called' then -- in line for long: kept for longer; or its call was lost
    drop(TICKET .. id)
    park(id, known[2], wait_until, known[5])
  elseif state == 'out' then
    send_on(answer, id, 'out', known[6])
  elseif state == 'running' and redis.call('HEXISTS', LOCK, known[4]) == 1 then
    look_at(id, redis.call('ZSCORE', UNTIL, known[4]))
  elseif state == 'running' then -- a copy was dropped because it ran; it died since
    park(id, known[2], wait_until, known[5])
  else
    redis.call('ZREM', DUE, id)
  end
end
call_or_wake(answer)
index()
return answer
