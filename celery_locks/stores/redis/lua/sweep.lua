-- Does what is due in this lock for a broker.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  broker
--
-- Returns {ticket, message, count, …} to be published.
--
-- Repeats: each ticket gets a new time at which it is due, so a second copy finds none. A ticket whose dispatch was lost with
-- the reply is dispatched again by a later sweep.

-- include prelude

-- include lock_keys
-- include grant
-- include library
-- include tickets
-- include errors

local answer, broker = {}, ARGV[3]

local function look(id)
  local known = redis.call('HMGET', ticket_key(id), 'state', 'number', 'until', 'token', 'task', 'why', 'broker')
  local state, wait_until = known[1], tonumber(known[3] or 0)
  if state == 'parked' and wait_until > 0 and wait_until <= now then
    take_out(answer, id, known[5], 'timeout', known[7])
  elseif state == 'parked' or is_dispatched(state) then -- it stays in line; or its message did not arrive
    remove_holder(TICKET .. id)
    put_in_line(id, known[2], wait_until, known[5], known[7])
  elseif state == 'out' then
    publish(answer, id, 'out', known[6])
  elseif state == 'running' and redis.call('HEXISTS', LOCK, known[4]) == 1 then
    set_due(id, known[7], redis.call('ZSCORE', UNTIL, known[4]))
  elseif state == 'running' or state == 'ended' then
    -- The run is owed: its lease has expired, or its result was not stored in time.
    put_in_line(id, known[2], wait_until, known[5], known[7])
  else
    clear_due(id, known[7])
  end
end

local function look_at_all()
  -- include spread_sole_holder
  -- include first_write
  remove_expired()
  touched[''], touched[broker] = true, true
  for _, id in ipairs(due('')) do
    local own = redis.call('HGET', ticket_key(id), 'broker')
    if own and own ~= '' then -- the version before knows no brokers
      move_to_broker(id, own)
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
  update_due()
end

local done, problem = pcall(look_at_all)
if done or #answer > 0 then
  return answer
end
-- A key of another type fails each time. So this lock is due later: until then a sweep gets to the other locks.
for _, parked in ipairs({INDEX .. 'parked', INDEX .. of_broker('parked', broker)}) do
  redis.pcall('ZADD', parked, 'XX', now + TROUBLE_PAUSE, LOCK)
end
return error_reply(error_text(problem))
