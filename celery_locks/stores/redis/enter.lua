-- A message has come: takes the permits if it is its ticket's turn, else parks.
--
-- ARGV[3] ttl  ARGV[4] limit  ARGV[5] permits  ARGV[6] owner  ARGV[7] ticket  ARGV[8] message, '' for not to park
-- ARGV[9] task  ARGV[10] longest wait, 0 for any  ARGV[11] most in line, 0 for any  ARGV[12] most holders to name
-- ARGV[13] list of the broker's queue, '' for none  ARGV[14] what to push there  ARGV[15] for how long permits are kept then
-- Returns {1, fence}, {'parked', number of calls, ticket, message, calls, …, refusal …}, {'dropped', state},
-- {'full', waiters}, {'out', why, refusal …}, or {'refused', refusal …}

-- include grant
-- include library
-- include tickets

local limit, permits, deadline = tonumber(ARGV[4]), tonumber(ARGV[5]), now + ARGV[3]
local id, me, most = ARGV[7], TICKET .. ARGV[7], tonumber(ARGV[12])
local known = redis.call('HMGET', ticket(id), 'state', 'number', 'token', 'why', 'until')
local state, number = known[1], tonumber(known[2])
local held, head = tidy()

local function answer(kind, ...)
  local all = {kind, ...}
  for _, part in ipairs(refusal(0, redis.call('ZRANK', LINE, me), most)) do
    all[#all + 1] = part
  end
  return all
end

if state == 'done' then
  if known[4] ~= '' and known[3] == token then -- the reply was lost that said so
    return answer('out', known[4])
  end
  return {'dropped', 'done'}
end
if state == 'out' then
  finish(id, known[4], token)
  index()
  return answer('out', known[4])
end
if state == 'running' and known[3] ~= token and redis.call('HEXISTS', LOCK, known[3]) == 1 then
  redis.call('HSET', ticket(id), 'owed', 1)
  look_at(id, redis.call('ZSCORE', UNTIL, known[3]))
  index()
  return {'dropped', 'running'}
end

local record = redis.call('HGET', LOCK, token)
if record then -- the same once more: its reply was lost
  redis.call('ZADD', UNTIL, 'GT', deadline, token)
  keep(last(UNTIL))
  return {1, tonumber(string.match(record, '^%d+ (%d+)'))}
end

if state then
  drop(me) -- what is kept for it, it takes or gives back now
  held = tonumber(redis.call('HGET', LOCK, 'held') or 0)
end
local first = not head or head == me or (number and number < tonumber(redis.call('ZSCORE', LINE, head)))
if held + permits <= limit and first then
  local fence = grant(token, permits, ARGV[6], deadline, redis.call('HGET', LOCK, 'fence'), held)
  keep(last(UNTIL))
  if state then
    leave_line(id)
    redis.call('ZREM', DUE, id)
    redis.call('HSET', ticket(id), 'state', 'running', 'token', token)
    redis.call('HDEL', ticket(id), 'owed')
    redis.call('SET', LOCK .. ':runs:' .. token, id, 'PX', RETENTION / 1000)
    index()
  end
  return {1, fence}
end

if not state then
  if ARGV[8] == '' then
    return answer('refused')
  end
  local waiters = redis.call('ZCARD', LINE)
  if tonumber(ARGV[11]) > 0 and waiters >= tonumber(ARGV[11]) then
    return {'full', waiters}
  end
  number = next_number()
  local wait_until = tonumber(ARGV[10]) > 0 and string.format('%.0f', now + ARGV[10]) or '0'
  redis.call('HSET', ticket(id), 'number', number, 'message', ARGV[8], 'task', ARGV[9], 'owner', ARGV[6],
    'permits', permits, 'limit', limit, 'until', wait_until, 'calls', 0)
  redis.call('SET', PREFIX .. 'task:' .. ARGV[9], string.format('ticket %d ', #LOCK) .. LOCK .. id,
    'PX', RETENTION / 1000)
  if ARGV[13] ~= '' then
    redis.call('HSET', ticket(id), 'queue', ARGV[13], 'element', ARGV[14], 'within', ARGV[15])
  end
  known[5] = wait_until
end
park(id, number, tonumber(known[5]))
local calls = call({})
index()
return answer('parked', #calls / 3, unpack(calls))
