-- Takes permits if enough are free and nobody stands in line before this token; else, if asked to, lines up.
--
-- ARGV[3] ttl  ARGV[4] limit  ARGV[5] permits  ARGV[6] owner  ARGV[7] for how long to line up, 0 for not at all
-- ARGV[8] most holders to name
-- Returns {1, fence}, or {0, retry in, position or -1, holders …}

local limit, permits = tonumber(ARGV[4]), tonumber(ARGV[5])
local deadline = now + ARGV[3]
local known = redis.call('HMGET', LOCK, token, 'held', 'fence')
local held = tonumber(known[2] or 0)

-- Keeps what is written until the latest deadline, and the fence for longer.
local function keep(latest)
  redis.call('PEXPIREAT', UNTIL, math.ceil((latest + LINGER) / 1000))
  redis.call('PEXPIREAT', LOCK, math.ceil((latest + memory) / 1000))
end

local function grant()
  local fence = math.max(tonumber(known[3] or 0) + 1, now)
  local record = string.format('%d %.0f %.0f ', permits, fence, now) .. ARGV[6] -- %s would end at a NUL
  redis.call('HSET', LOCK, 'fence', fence, 'held', held + permits, token, record)
  redis.call('ZADD', UNTIL, 'GT', deadline, token)
  return fence
end

-- Nobody holds, nobody waits: no deadlines to look at.
if held == 0 and permits <= limit and redis.call('EXISTS', LINE) == 0 then
  local fence = grant()
  keep(deadline)
  return {1, fence}
end

-- include library

local head
held, head = tidy()
known = redis.call('HMGET', LOCK, token, 'held', 'fence')

if known[1] then -- the same acquire once more: its reply was lost
  redis.call('ZADD', UNTIL, 'GT', deadline, token)
  keep(last(UNTIL))
  return {1, tonumber(string.match(known[1], '^%d+ (%d+)'))}
end

if held + permits <= limit and (not head or head == token) then
  local fence = grant()
  keep(last(UNTIL))
  if head then
    redis.call('ZREM', LINE, token)
    redis.call('ZREM', ALIVE, token)
    redis.call('DEL', WAKE .. token)
    if held + permits < limit then
      wake()
    end
  end
  return {1, fence}
end

local place = redis.call('ZRANK', LINE, token)
if tonumber(ARGV[7]) > 0 then
  if not place then
    redis.call('ZADD', LINE, (last(LINE) or 0) + 1, token)
    place = redis.call('ZRANK', LINE, token)
  end
  redis.call('ZADD', ALIVE, 'GT', now + ARGV[7], token)
  local expiry = math.ceil(last(ALIVE) / 1000)
  redis.call('PEXPIREAT', LINE, expiry)
  redis.call('PEXPIREAT', ALIVE, expiry)
end

-- The next event of which nobody is told: the place before ends, or a holder's deadline, or that of the first in line.
local event
if place and place > 0 then
  event = redis.call('ZSCORE', ALIVE, redis.call('ZRANGE', LINE, place - 1, place - 1)[1])
else
  event = redis.call('ZRANGE', UNTIL, 0, 0, 'WITHSCORES')[2] or redis.call('ZRANGE', ALIVE, 0, 0, 'WITHSCORES')[2]
end
-- With no event at all more permits were asked for than there are: no moment is better than another.
local retry_in = math.max(0, (event or now + 1000000) - now)
return name_holders({0, retry_in, place or -1}, tonumber(ARGV[8]))
