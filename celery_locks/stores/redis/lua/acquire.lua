-- Takes permits if enough are free and nobody stands in line before this token; else, if asked to, lines up.
--
-- ARGV[3] ttl  ARGV[4] limit  ARGV[5] permits  ARGV[6] owner  ARGV[7] for how long to line up, 0 for not at all
-- ARGV[8] most holders to name  ARGV[9] most in line, 0 for any  ARGV[10] number of this request  and 'repeat', see prelude
-- Returns the fencing token, {0, retry in, position or -1, holders …}, or {3, …} when there are as many in line as may be

local REPEAT, limit, permits, deadline = ARGV[#ARGV] == 'repeat', tonumber(ARGV[4]), tonumber(ARGV[5]), now + ARGV[3]

-- include take_free

-- include records
-- include spread
-- include grant
-- include library

local held, head = tidy()
local known = redis.call('HMGET', LOCK, token, 'held', 'fence')

if known[1] then -- the same acquire once more: its reply was lost
  return prolong(token, known[1], deadline)
end

if permits <= limit - held and (not head or head == token) then
  local fence = grant(token, permits, ARGV[6], deadline, known[3], held, limit)
  keep(last(UNTIL))
  if head then
    redis.call('ZREM', LINE, token)
    redis.call('ZREM', ALIVE, token)
    redis.call('DEL', WAKE .. token)
    unlist_idle()
    if held + permits < math.max(limit, tonumber(free[3] or 0)) then
      wake()
    end
  end
  return fence
end

local place = redis.call('ZRANK', LINE, token)
if tonumber(ARGV[7]) > 0 then
  if not place then
    local most = tonumber(ARGV[9])
    if most > 0 and redis.call('ZCOUNT', ALIVE, string.format('(%.0f', now), '+inf') >= most then
      return refusal(3, nil, tonumber(ARGV[8]))
    end
    redis.call('ZADD', LINE, next_number(), token)
    place = redis.call('ZRANK', LINE, token)
  end
  redis.call('ZADD', ALIVE, 'GT', now + ARGV[7], token)
  keep_line(limit)
end

return refusal(0, place, tonumber(ARGV[8]))
