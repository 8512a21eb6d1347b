-- Does what is due in this lock for a broker.
--
-- ARGV[3] broker
-- Returns {ticket, message, count, …}: those to be published

-- include records
-- include grant
-- include library
-- include tickets
-- include trouble

local answer, broker = {}, ARGV[3]

local function look(id)
  local known = redis.call('HMGET', ticket(id), 'state', 'number', 'until', 'token', 'task', 'why', 'broker')
  local state, wait_until = known[1], tonumber(known[3] or 0)
  if state == 'parked' and wait_until > 0 and wait_until <= now then
    put_out(answer, id, known[5], 'timeout', known[7])
  elseif state == 'parked' or is_dispatched(state) then -- kept for longer in line; or its message did not arrive
    drop(TICKET .. id)
    park(id, known[2], wait_until, known[5], known[7])
  elseif state == 'out' then
    publish(answer, id, 'out', known[6])
  elseif state == 'running' and redis.call('HEXISTS', LOCK, known[4]) == 1 then
    look_at(id, known[7], redis.call('ZSCORE', UNTIL, known[4]))
  elseif state == 'running' or state == 'ended' then -- it is owed; its lease has expired, or its result was not stored in time
    park(id, known[2], wait_until, known[5], known[7])
  else
    not_due(id, known[7])
  end
end

local function look_at_all()
  -- include spread
  -- include when_full
  tidy()
  touched[''], touched[broker] = true, true
  for _, id in ipairs(due('')) do
    local own = redis.call('HGET', ticket(id), 'broker')
    if own and own ~= '' then -- the version before, which knows no brokers, put it here
      move_due(id, own)
    else
      look(id)
    end
  end
  if broker ~= '' then
    for _, id in ipairs(due(broker)) do
      look(id)
    end
  end
  dispatch_or_wake(answer, broker)
  index()
end

local done, problem = pcall(look_at_all)
if done or #answer > 0 then
  return answer
end
-- A record of a foreign type is in the way each time: the locks behind this one come first for a while.
for _, parked in ipairs({INDEX .. 'parked', INDEX .. of_broker('parked', broker)}) do
  redis.pcall('ZADD', parked, 'XX', now + TROUBLE_PAUSE, LOCK)
end
return error_of(text_of(problem))
