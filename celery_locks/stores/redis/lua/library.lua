-- Functions of the scripts. A script includes them where it needs them: making them costs more than most calls, so the
-- ways that are taken most often end before.

-- What the names of the sweeper's records begin with, and how long tickets are kept. A tried write has records of its own:
-- no sweeper finds them, and they expire soon, even if the process that tries dies. See stores/trial.py.
local INDEX, KEPT = PREFIX, RETENTION
if string.sub(NAME, 1, #TRIAL) == TRIAL then
  INDEX, KEPT = LOCK .. ':', TRIAL_RETENTION
end

-- include expiry
-- include forget
-- include marks
-- include record
-- include sole

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

-- Removes a holder's record. If the holder has displaced a lease, that can't be put back any more, unless `is_displaced`
-- states that a claim displaces this holder in turn.
local function drop(holder, is_displaced)
  local known, ends = redis.call('HMGET', LOCK, holder, 'of ' .. holder), redis.call('ZSCORE', UNTIL, holder)
  local record, displaced, claim = known[1], known[2], holder
  if record then
    unlist(record, ends)
  end
  redis.call('ZREM', UNTIL, holder)
  if ends and ends - now > FENCE_KEPT then -- a long lease that was released early
    keep(last(UNTIL) or now)
  end
  if record then
    redis.call('HDEL', LOCK, holder)
    redis.call('HINCRBY', LOCK, 'held', '-' .. string.match(record, '^%d+'))
  end
  if displaced and not is_displaced then
    -- include displaced
    while displaced do -- and what the displaced holder had displaced itself
      claim = end_displacement(claim, displaced)
      displaced = claim and redis.call('HGET', LOCK, 'of ' .. claim)
    end
  end
end

-- Prolongs a holder's lease, never shortens it. Returns its fencing token.
local function prolong(holder, record, deadline)
  local fence, before = string.match(record, '^%d+ (%d+)'), redis.call('ZSCORE', UNTIL, holder) or '0'
  if deadline > tonumber(before) then
    unlist(record, before)
    redis.call('ZADD', UNTIL, deadline, holder)
    redis.call('HSET', LOCK, holder, with_ttl(record, deadline - now))
    list(fence, string.format('%.0f', deadline))
  end
  keep(last(UNTIL))
  return tonumber(fence)
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
    if head and string.sub(head, 1, #TICKET) ~= TICKET then
      local ends = redis.call('ZSCORE', ALIVE, head)
      if not ends then
        redis.call('ZREM', LINE, head) -- its deadline was evicted
        any = true
        head = redis.call('ZRANGE', LINE, 0, 0)[1]
      elseif ends - now > 60000000 and redis.call('ZSCORE', LINE, head) - now > 1000000 then
        -- The clock was set back since it lined up. If it lives, it soon asks again.
        redis.call('ZADD', ALIVE, now + 60000000, head)
      end
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

-- Keeps the line until the last place in it ends. `limit` is that of the last waiter.
local function keep_line(limit)
  local expiry = math.ceil((last(ALIVE) or now) / 1000)
  redis.call('PEXPIREAT', LINE, expiry)
  redis.call('PEXPIREAT', ALIVE, expiry)
  local known = redis.call('HMGET', LOCK, 'fence', 'lined')
  if known[1] then
    redis.call('HSET', LOCK, 'lined', string.format('%.0f', math.max(1, limit or 1, tonumber(known[2] or 1))))
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

-- The deadline of a holder. Where it is later than its ttl allows, the clock was set back: then it ends after its ttl.
local function in_time(holder, record, ends)
  local ttl = tonumber(string.match(record, '^%d+ %d+ %d+ %d+ t(%d+) ') or '')
  if not ttl or ends - now <= ttl then
    return ends
  end
  local deadline = string.format('%.0f', now + ttl)
  unlist(record, ends)
  redis.call('ZADD', UNTIL, deadline, holder)
  list(string.match(record, '^%d+ (%d+)'), deadline)
  return deadline
end

-- Appends at most so many holders to an answer: token, record, deadline, …, and the time. `corrects` late deadlines.
local function name_holders(answer, most, corrects)
  local sole = sole_fields(LOCK)
  if sole then
    local ends, record = sole_record(sole)
    if ends - now > 0 then
      answer[#answer + 1] = sole[1]
      answer[#answer + 1] = record
      answer[#answer + 1] = ends
    end
  end
  local holders = redis.call('ZRANGEBYSCORE', UNTIL, string.format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #holders, 2 do
    local record, ends = redis.call('HGET', LOCK, holders[i]) or '1 0 0 0 ', holders[i + 1]
    answer[#answer + 1] = holders[i]
    answer[#answer + 1] = record
    answer[#answer + 1] = corrects and in_time(holders[i], record, ends) or ends
  end
  answer[#answer + 1] = string.format('%.0f', now)
  return answer
end

-- The answer to a claim that was not granted: {kind, retry in, position or -1, holders …}.
local function refusal(kind, place, most)
  local answer = name_holders({kind, 0, place or -1}, most, true)
  -- The next event of which nobody is told: the place before ends, or a holder's deadline, or that of the first in line.
  local event
  if place and place > 0 then
    event = redis.call('ZSCORE', ALIVE, redis.call('ZRANGE', LINE, place - 1, place - 1)[1])
  else
    event = redis.call('ZRANGE', UNTIL, 0, 0, 'WITHSCORES')[2] or redis.call('ZRANGE', ALIVE, 0, 0, 'WITHSCORES')[2]
  end
  -- With no event at all more permits were asked for than there are: no moment is better than another.
  answer[2] = math.max(0, (event or now + 1000000) - now)
  return answer
end
