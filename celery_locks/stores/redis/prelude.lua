-- What all scripts of a lock begin with. All times are microseconds of the server's clock.
--
-- KEYS[1] lock   hash: fence, held (sum of permits), released (the last call that released), and for each holder
--                token -> "permits fence since owner"
-- KEYS[2] until  sorted set: token of a holder -> its deadline
-- KEYS[3] line   sorted set: token of a waiter -> its number
-- KEYS[4] alive  sorted set: token of a waiter -> deadline of its place
-- KEYS[5] what the names of the wake-up lists begin with (all in the same slot)
-- ARGV[1] owner token  ARGV[2] how long, in microseconds, the fence is remembered after the last deadline

local LOCK, UNTIL, LINE, ALIVE, WAKE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, memory = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- How long a deadline stays known after it has passed, so that its holder is told "expired" and not "deleted".
local LINGER = 60 * 1000000

-- A number as the text that Redis takes: tostring() would round it.
local function text(number)
  return string.format('%.0f', number)
end

local function expire(key, moment)
  redis.call('PEXPIREAT', key, text(math.ceil(moment / 1000)))
end

-- Score of the last member of a sorted set.
local function last(set)
  return tonumber(redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')[2])
end

-- Takes a holder's record away; returns whether there was one.
local function drop(holder)
  local record = redis.call('HGET', LOCK, holder)
  redis.call('ZREM', UNTIL, holder)
  if record then
    redis.call('HDEL', LOCK, holder)
    redis.call('HINCRBY', LOCK, 'held', -tonumber(string.match(record, '^%d+')))
  end
  return record
end

-- Passes over the holders and waiters whose deadline has passed: at most 100 a call, the rest wait for the next.
-- Returns the permits still held and the first in line.
local function tidy()
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', UNTIL, '-inf', text(now), 'LIMIT', 0, 100)) do
    drop(gone)
  end
  local held = tonumber(redis.call('HGET', LOCK, 'held') or 0)
  if held > 0 and redis.call('EXISTS', UNTIL) == 0 then
    -- The deadlines were evicted: what they belonged to can't be kept up.
    local fence = redis.call('HGET', LOCK, 'fence')
    redis.call('DEL', LOCK)
    redis.call('HSET', LOCK, 'fence', fence or 0)
    expire(LOCK, now + memory)
    held = 0
  end
  local head = redis.call('ZRANGE', LINE, 0, 0)[1]
  if head then
    for _, gone in ipairs(redis.call('ZRANGEBYSCORE', ALIVE, '-inf', text(now), 'LIMIT', 0, 100)) do
      redis.call('ZREM', LINE, gone)
      redis.call('ZREM', ALIVE, gone)
    end
    head = redis.call('ZRANGE', LINE, 0, 0)[1]
    if head and not redis.call('ZSCORE', ALIVE, head) then
      redis.call('ZREM', LINE, head)
      head = redis.call('ZRANGE', LINE, 0, 0)[1]
    end
  end
  return held, head
end

-- Tells the first in line that it may be its turn. It looks for itself: the wake-up grants nothing.
local function wake()
  local head = redis.call('ZRANGE', LINE, 0, 0)[1]
  if head then
    redis.call('RPUSH', WAKE .. head, 1)
    redis.call('PEXPIRE', WAKE .. head, 60000)
  end
end

-- Appends at most so many holders to an answer: token, record, deadline, …, and the time.
local function name_holders(answer, most)
  local holders = redis.call('ZRANGEBYSCORE', UNTIL, '(' .. text(now), '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #holders, 2 do
    answer[#answer + 1] = holders[i]
    answer[#answer + 1] = redis.call('HGET', LOCK, holders[i]) or '1 0 0 '
    answer[#answer + 1] = holders[i + 1]
  end
  answer[#answer + 1] = text(now)
  return answer
end
