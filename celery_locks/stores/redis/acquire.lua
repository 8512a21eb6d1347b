-- Takes permits if enough are free and nobody stands in line before this token; else, if asked to, lines up.
--
-- ARGV[3] ttl  ARGV[4] limit  ARGV[5] permits  ARGV[6] owner  ARGV[7] for how long to line up, 0 for not at all
-- ARGV[8] most holders to name
-- Returns the fencing token, or {0, retry in, position or -1, holders …}

local limit, permits = tonumber(ARGV[4]), tonumber(ARGV[5])
local deadline = now + ARGV[3]
local known = redis.call('HMGET', LOCK, token, 'held', 'fence')
local held = tonumber(known[2] or 0)

-- include grant

-- Nobody holds, nobody waits: no deadlines to look at.
if held == 0 and permits <= limit and redis.call('EXISTS', LINE) == 0 then
  local fence = grant(token, permits, ARGV[6], deadline, known[3], held, limit)
  keep(deadline)
  if now % 16 == 0 then -- one in so many grants takes away what the dead left on the list, so that it can't grow
    -- include unlist_expired
    unlist_expired(32)
  end
  return fence
end

-- include library

local head
held, head = tidy()
known = redis.call('HMGET', LOCK, token, 'held', 'fence')

if known[1] then -- the same acquire once more: its reply was lost
  return prolong(token, known[1], deadline)
end

if held + permits <= limit and (not head or head == token) then
  local fence = grant(token, permits, ARGV[6], deadline, known[3], held, limit)
  keep(last(UNTIL))
  if head then
    redis.call('ZREM', LINE, token)
    redis.call('ZREM', ALIVE, token)
    redis.call('DEL', WAKE .. token)
    unlist_idle()
    if held + permits < limit then
      wake()
    end
  end
  return fence
end

local place = redis.call('ZRANK', LINE, token)
if tonumber(ARGV[7]) > 0 then
  if not place then
    redis.call('ZADD', LINE, next_number(), token)
    place = redis.call('ZRANK', LINE, token)
  end
  redis.call('ZADD', ALIVE, 'GT', now + ARGV[7], token)
  keep_line()
end

return refusal(0, place, tonumber(ARGV[8]))
