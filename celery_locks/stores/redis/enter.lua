-- A message has come: takes the permits if it is its ticket's turn, else parks.
--
-- ARGV[3] ttl  ARGV[4] limit  ARGV[5] permits  ARGV[6] owner  ARGV[7] ticket  ARGV[8] message, '' for not to park
-- ARGV[9] task  ARGV[10] longest wait, 0 for any  ARGV[11] most in line, 0 for any  ARGV[12] most holders to name
-- ARGV[13] list of the broker's queue, '' for none  ARGV[14] what to push there  ARGV[15] for how long permits are kept then
-- Returns the fencing token, {'parked', number of calls, ticket, message, calls, …, refusal …}, {'dropped', state},
-- {'full', waiters}, {'out', why, refusal …}, or {'refused', refusal …}

-- include grant
-- include library
-- include tickets

local limit, permits, deadline = tonumber(ARGV[4]), tonumber(ARGV[5]), now + ARGV[3]
local id, me, most = ARGV[7], TICKET .. ARGV[7], tonumber(ARGV[12])
local mine = redis.call('HMGET', ticket(id), 'state', 'number', 'token', 'why', 'until', 'permits')
local state, number = mine[1], tonumber(mine[2])
local _, head = tidy()
local lock = redis.call('HMGET', LOCK, 'fence', 'held', token, me)
local held = tonumber(lock[2] or 0)

local function answer(kind, ...)
  local all = {kind, ...}
  for _, part in ipairs(refusal(0, redis.call('ZRANK', LINE, me), most)) do
    all[#all + 1] = part
  end
  return all
end

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
  redis.call('ZADD', UNTIL, 'GT', deadline, token)
  keep(last(UNTIL))
  return tonumber(string.match(lock[3], '^%d+ (%d+)'))
end
if state == 'running' and redis.call('HEXISTS', LOCK, mine[3]) == 1 then
  look_at(id, redis.call('ZSCORE', UNTIL, mine[3]))
  index()
  return {'dropped', 'running'}
end

if lock[4] then -- what is kept for it, it takes or gives back now
  redis.call('HDEL', LOCK, me)
  redis.call('ZREM', UNTIL, me)
  held = held - mine[6]
  redis.call('HSET', LOCK, 'held', held)
end
local first = not head or head == me or (number and number < tonumber(redis.call('ZSCORE', LINE, head)))
if held + permits <= limit and first then
  local fence = grant(token, permits, ARGV[6], deadline, lock[1], held)
  keep(held == 0 and deadline or last(UNTIL))
  if state then
    if state == 'parked' then
      leave_line(id, ARGV[9])
    end
    redis.call('ZREM', DUE, id)
    redis.call('HSET', ticket(id), 'state', 'running', 'token', token)
    redis.call('SET', LOCK .. ':runs:' .. token, id, 'PX', RETENTION / 1000)
    redis.call('ZADD', PREFIX .. 'parked', 'XX', 'LT', deadline, LOCK)
  end
  return fence
end

if not state then
  if ARGV[8] == '' then
    return answer('refused')
  end
  local waiters = redis.call('ZCOUNT', ALIVE, string.format('(%.0f', now), '+inf')
  if tonumber(ARGV[11]) > 0 and waiters >= tonumber(ARGV[11]) then
    return {'full', waiters}
  end
  number = next_number()
  mine[5] = tonumber(ARGV[10]) > 0 and string.format('%.0f', now + ARGV[10]) or '0'
  redis.call('HSET', ticket(id), 'number', number, 'message', ARGV[8], 'task', ARGV[9], 'owner', ARGV[6],
    'permits', permits, 'limit', limit, 'until', mine[5], 'calls', 0)
  if ARGV[13] ~= '' then
    redis.call('HSET', ticket(id), 'queue', ARGV[13], 'element', ARGV[14], 'within', ARGV[15])
  end
end
park(id, number, tonumber(mine[5]), ARGV[9])
local calls = call({})
index()
return answer('parked', #calls / 3, unpack(calls))
