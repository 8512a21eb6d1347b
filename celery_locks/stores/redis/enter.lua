-- A message has come: takes the permits if it is its ticket's turn, else parks.
--
-- ARGV[3] ttl  ARGV[4] limit  ARGV[5] permits  ARGV[6] owner  ARGV[7] ticket  ARGV[8] message, '' for not to park
-- ARGV[9] task  ARGV[10] longest wait, 0 for any  ARGV[11] most in line, 0 for any  ARGV[12] most holders to name
-- ARGV[13] list of the broker's queue, '' for none  ARGV[14] what to push there  ARGV[15] for how long permits are kept then
-- ARGV[16] owner while it is parked and dispatched, '' for ARGV[6]
-- Returns the fencing token, {'parked', number of calls, ticket, message, calls, …, refusal …}, {'dropped', state},
-- {'full', waiters}, {'out', why, refusal …}, or {'refused', refusal …}

local limit, permits, deadline = tonumber(ARGV[4]), tonumber(ARGV[5]), now + ARGV[3]

if redis.call('EXISTS', LOCK .. ':ticket:' .. ARGV[7]) == 0 then -- it was never parked
  -- include take_free
end

-- include records
-- include spread
-- include grant
-- include library
-- include tickets

local id, me, most = ARGV[7], TICKET .. ARGV[7], tonumber(ARGV[12])
local mine = redis.call('HMGET', ticket(id), 'state', 'number', 'token', 'why', 'until', 'permits')
local state, number = mine[1], tonumber(mine[2])
local _, head = tidy()
local lock = redis.call('HMGET', LOCK, 'fence', 'held', token, me)
local held = tonumber(lock[2] or 0)

-- include line_up

if state == 'done' then
  if mine[4] ~= '' and mine[3] == token then -- the reply was lost that said so
    return answer('out', mine[4])
  end
  return {'dropped', 'done'}
end
if state == 'out' then
  finish(id, mine[4], token)
  index()
  return answer('out', mine[4])
end
if lock[3] then -- the same once more: its reply was lost
  return prolong(token, lock[3], deadline)
end
if state == 'running' and redis.call('HEXISTS', LOCK, mine[3]) == 1 then
  look_at(id, redis.call('ZSCORE', UNTIL, mine[3]))
  index()
  return {'dropped', 'running'}
end

if lock[4] then -- what is kept for it, it takes or gives back now
  drop(me)
  held = held - mine[6]
end
local first = not head or head == me or (number and number < tonumber(redis.call('ZSCORE', LINE, head)))
if held + permits <= limit and first then
  local fence = grant(token, permits, ARGV[6], deadline, lock[1], held, limit)
  keep(held == 0 and deadline or last(UNTIL))
  if state then
    if state == 'parked' then
      leave_line(id, ARGV[9])
    end
    redis.call('ZREM', DUE, id)
    redis.call('HSET', ticket(id), 'state', 'running', 'token', token)
    redis.call('SET', LOCK .. ':runs:' .. token, id, 'PX', KEPT / 1000)
    redis.call('ZADD', INDEX .. 'parked', 'XX', 'LT', deadline, LOCK)
  end
  return fence
end

return line_up()
