-- Takes permits if enough are free and nobody stands in line before this token; else, if asked to, lines up.
--
-- ARGV[3] ttl  ARGV[4] limit  ARGV[5] permits  ARGV[6] owner  ARGV[7] for how long to line up, 0 for not at all
-- ARGV[8] most holders to name
-- Returns {1, fence}, or {0, retry in, position or -1, holders …}

local ttl, limit, permits = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local line_up = tonumber(ARGV[7])
local held, head = tidy()

local function keep()
  redis.call('ZADD', UNTIL, 'GT', text(now + ttl), token)
  local deadline = last(UNTIL)
  expire(UNTIL, deadline + LINGER)
  expire(LOCK, deadline + memory)
end

local known = redis.call('HMGET', LOCK, token, 'fence')
if known[1] then -- the same acquire once more: its reply was lost
  keep()
  return {1, tonumber(string.match(known[1], '^%d+ (%d+)'))}
end

if held + permits <= limit and (not head or head == token) then
  local fence = math.max(tonumber(known[2] or 0) + 1, now)
  local record = permits .. ' ' .. text(fence) .. ' ' .. text(now) .. ' ' .. ARGV[6]
  redis.call('HSET', LOCK, 'fence', text(fence), 'held', held + permits, token, record)
  keep()
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
if line_up > 0 then
  if not place then
    redis.call('ZADD', LINE, (last(LINE) or 0) + 1, token)
    place = redis.call('ZRANK', LINE, token)
  end
  redis.call('ZADD', ALIVE, 'GT', text(now + line_up), token)
  local deadline = last(ALIVE)
  expire(LINE, deadline)
  expire(ALIVE, deadline)
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
