-- Functions of the scripts. A script includes them where it needs them: making them costs more than most calls, so the
-- ways that are taken most often end before.

-- Score of the last member of a sorted set.
local function last(set)
  return tonumber(redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')[2])
end

-- Takes a holder's record away.
local function drop(holder)
  local record = redis.call('HGET', LOCK, holder)
  redis.call('ZREM', UNTIL, holder)
  if record then
    redis.call('HDEL', LOCK, holder)
    redis.call('HINCRBY', LOCK, 'held', -tonumber(string.match(record, '^%d+')))
  end
end

-- Passes over the holders and waiters whose deadline has passed: at most 100 a call, the rest wait for the next.
-- Returns the permits still held and the first in line.
local function tidy()
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', UNTIL, '-inf', now, 'LIMIT', 0, 100)) do
    drop(gone)
  end
  local held = tonumber(redis.call('HGET', LOCK, 'held') or 0)
  if held > 0 and redis.call('EXISTS', UNTIL) == 0 then
    -- The deadlines were evicted: what they belonged to can't be kept up.
    local fence = redis.call('HGET', LOCK, 'fence')
    redis.call('DEL', LOCK)
    redis.call('HSET', LOCK, 'fence', fence or 0)
    redis.call('PEXPIREAT', LOCK, math.ceil((now + memory) / 1000))
    held = 0
  end
  local head = redis.call('ZRANGE', LINE, 0, 0)[1]
  if head then
    for _, gone in ipairs(redis.call('ZRANGEBYSCORE', ALIVE, '-inf', now, 'LIMIT', 0, 100)) do
      redis.call('ZREM', LINE, gone)
      redis.call('ZREM', ALIVE, gone)
    end
    head = redis.call('ZRANGE', LINE, 0, 0)[1]
    if head and not redis.call('ZSCORE', ALIVE, head) then -- its deadline was evicted
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
  local holders = redis.call('ZRANGEBYSCORE', UNTIL, string.format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #holders, 2 do
    answer[#answer + 1] = holders[i]
    answer[#answer + 1] = redis.call('HGET', LOCK, holders[i]) or '1 0 0 '
    answer[#answer + 1] = holders[i + 1]
  end
  answer[#answer + 1] = string.format('%.0f', now)
  return answer
end
