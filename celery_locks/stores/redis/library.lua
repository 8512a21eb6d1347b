-- Functions of the scripts. A script includes them where it needs them: making them costs more than most calls, so the
-- ways that are taken most often end before.

-- What the names of the sweeper's records begin with, and how long tickets are kept. A tried write has records of its own:
-- no sweeper finds them, and they expire soon, even if the process that tries dies. See stores/trial.py.
local INDEX, KEPT = PREFIX, RETENTION
if string.sub(NAME, 1, #TRIAL) == TRIAL then
  INDEX, KEPT = LOCK .. ':', TRIAL_RETENTION
end

-- Score of the last member of a sorted set.
local function last(set)
  return tonumber(redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')[2])
end

-- include marks

-- Takes a holder from the list.
local function unlist(record, deadline)
  local mark = string.match(record, '^%d+ (%d+)') .. ' ' .. NAME
  redis.call('ZREM', PREFIX .. 'locks', 's' .. mark, 'u' .. (deadline or '0') .. ' ' .. mark)
end

-- Takes the lock from the lists when nobody holds it or waits for it.
local function unlist_idle()
  if redis.call('EXISTS', LINE) == 0 then
    redis.call('HDEL', LOCK, 'lined')
    redis.call('ZREM', PREFIX .. 'lines', NAME)
    if tonumber(redis.call('HGET', LOCK, 'held') or 0) == 0 then
      redis.call('ZREM', PREFIX .. 'locks', 'n' .. NAME)
    end
  end
end

-- Takes a holder's record away.
local function drop(holder)
  local record = redis.call('HGET', LOCK, holder)
  if record then
    unlist(record, redis.call('ZSCORE', UNTIL, holder))
  end
  redis.call('ZREM', UNTIL, holder)
  if record then
    redis.call('HDEL', LOCK, holder)
    redis.call('HINCRBY', LOCK, 'held', -tonumber(string.match(record, '^%d+')))
  end
end

-- Prolongs a holder's lease, never shortens it. Returns its fencing token. Needs grant.
local function prolong(holder, record, deadline)
  local fence, before = string.match(record, '^%d+ (%d+)'), redis.call('ZSCORE', UNTIL, holder) or '0'
  if deadline > tonumber(before) then
    unlist(record, before)
    redis.call('ZADD', UNTIL, deadline, holder)
    list(fence, string.format('%.0f', deadline))
  end
  keep(last(UNTIL))
  return tonumber(fence)
end

-- Leaves nothing of the lock but its fence.
local function forget_holders()
  local fence = redis.call('HGET', LOCK, 'fence')
  redis.call('UNLINK', LOCK, UNTIL) -- however many they are
  if fence then
    redis.call('HSET', LOCK, 'fence', fence)
    if redis.call('EXISTS', LINE) == 1 then
      redis.call('HSET', LOCK, 'lined', 1)
    end
    redis.call('PEXPIREAT', LOCK, math.ceil((now + FENCE_KEPT) / 1000))
  end
end

-- Passes over the holders and waiters whose deadline has passed: at most 100 a call, the rest wait for the next.
-- Returns the permits still held and the first in line.
local function tidy()
  local any = false
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', UNTIL, '-inf', now, 'LIMIT', 0, 100)) do
    drop(gone)
    any = true
  end
  local held = tonumber(redis.call('HGET', LOCK, 'held') or 0)
  if held > 0 and redis.call('EXISTS', UNTIL) == 0 then
    forget_holders() -- the deadlines were evicted: what they belonged to can't be kept up
    held = 0
  end
  local head = redis.call('ZRANGE', LINE, 0, 0)[1]
  if head then -- those further behind too: one that comes back late has lost its place
    for _, gone in ipairs(redis.call('ZRANGEBYSCORE', ALIVE, '-inf', now, 'LIMIT', 0, 100)) do
      redis.call('ZREM', LINE, gone)
      redis.call('ZREM', ALIVE, gone)
      any = true
    end
    head = redis.call('ZRANGE', LINE, 0, 0)[1]
    if head and string.sub(head, 1, #TICKET) ~= TICKET and not redis.call('ZSCORE', ALIVE, head) then
      redis.call('ZREM', LINE, head) -- its deadline was evicted
      any = true
      head = redis.call('ZRANGE', LINE, 0, 0)[1]
    end
  end
  if any or not head then
    unlist_idle()
  end
  return held, head
end

-- A number for a place in line: greater than all before it, also those that are no longer in line.
local function next_number()
  return math.max((last(LINE) or 0) + 1, now)
end

-- Keeps the line until the last place in it ends.
local function keep_line()
  local expiry = math.ceil((last(ALIVE) or now) / 1000)
  redis.call('PEXPIREAT', LINE, expiry)
  redis.call('PEXPIREAT', ALIVE, expiry)
  if redis.call('HEXISTS', LOCK, 'fence') == 1 then
    redis.call('HSET', LOCK, 'lined', 1)
  end
  redis.call('ZADD', PREFIX .. 'lines', expiry * 1000, NAME)
  redis.call('PEXPIRE', PREFIX .. 'lines', 2 * RETENTION / 1000)
  redis.call('ZADD', PREFIX .. 'locks', 0, 'n' .. NAME)
  keep_list()
end

-- The name of a record that each broker has for itself. Without a broker it is that of the version before.
local function of_broker(name, broker)
  return (broker or '') == '' and name or name .. ':' .. broker
end

local function wake_sweeper(broker)
  local sweep = INDEX .. of_broker('sweep', broker)
  redis.call('LPUSH', sweep, 1)
  redis.call('LTRIM', sweep, 0, 0)
  redis.call('PEXPIRE', sweep, math.min(60000, KEPT / 1000))
end

-- Writes down for a broker's sweeper when something is due in this lock; nil for nothing.
local function look_at_lock(broker, moment)
  local parked = INDEX .. of_broker('parked', broker)
  if not moment then
    redis.call('ZREM', parked, LOCK)
    return
  end
  if moment <= now then
    moment = now
    wake_sweeper(broker)
  elseif moment < now + LONGEST_SLEEP then -- the sweeper may wait for a later moment
    local first = redis.call('ZRANGE', parked, 0, 0, 'WITHSCORES')[2]
    if not first or moment < tonumber(first) then
      wake_sweeper(broker)
    end
  end
  redis.call('ZADD', parked, moment, LOCK)
  redis.call('PEXPIRE', parked, 2 * KEPT / 1000)
end

-- Tells the first in line that it may be its turn. It looks for itself: the wake-up grants nothing.
local function wake()
  local head = redis.call('ZRANGE', LINE, 0, 0)[1]
  if not head then
    return
  end
  if string.sub(head, 1, #TICKET) == TICKET then
    look_at_lock(redis.call('HGET', LOCK .. ':ticket:' .. string.sub(head, #TICKET + 1), 'broker'), now)
    return
  end
  redis.call('RPUSH', WAKE .. head, 1)
  redis.call('PEXPIRE', WAKE .. head, 60000)
end

-- Appends at most so many holders to an answer: token, record, deadline, …, and the time.
local function name_holders(answer, most)
  local known = redis.call('HMGET', LOCK, 'sole', 'terms', 'owner')
  if known[1] and known[1] ~= '' then
    local ends, terms = string.match(known[2], '^(%d+) (.*)$')
    if ends - now > 0 then
      answer[#answer + 1] = known[1]
      answer[#answer + 1] = terms .. ' ' .. known[3]
      answer[#answer + 1] = ends
    end
  end
  local holders = redis.call('ZRANGEBYSCORE', UNTIL, string.format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #holders, 2 do
    answer[#answer + 1] = holders[i]
    answer[#answer + 1] = redis.call('HGET', LOCK, holders[i]) or '1 0 0 '
    answer[#answer + 1] = holders[i + 1]
  end
  answer[#answer + 1] = string.format('%.0f', now)
  return answer
end

-- The answer to a claim that was not granted: {kind, retry in, position or -1, holders …}.
local function refusal(kind, place, most)
  -- The next event of which nobody is told: the place before ends, or a holder's deadline, or that of the first in line.
  local event
  if place and place > 0 then
    event = redis.call('ZSCORE', ALIVE, redis.call('ZRANGE', LINE, place - 1, place - 1)[1])
  else
    event = redis.call('ZRANGE', UNTIL, 0, 0, 'WITHSCORES')[2] or redis.call('ZRANGE', ALIVE, 0, 0, 'WITHSCORES')[2]
  end
  -- With no event at all more permits were asked for than there are: no moment is better than another.
  return name_holders({kind, math.max(0, (event or now + 1000000) - now), place or -1}, most)
end
