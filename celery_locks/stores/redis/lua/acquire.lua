-- Acquires permits if enough are free and no other waiter is first in line. Otherwise puts the token in line if asked to.
--
--   KEYS[1]   the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]   ttl
--   ARGV[4]   limit
--   ARGV[5]   permits
--   ARGV[6]   owner
--   ARGV[7]   for how long the token stays in line without another request, 0 for no place in line
--   ARGV[8]   how many holders to name at most
--   ARGV[9]   how many waiters the line may have, 0 for any number
--   ARGV[10]  id of the request, then maybe 'repeat'
--
-- Returns the fencing token; or {0, retry in, position or -1, holders …}; or {3, …} if the line is full.
--
-- Repeats: a token that holds gets its fencing token again, and a token in line keeps its place. A copy that comes after a
-- later one is refused; see refuse_late_copy.

-- include prelude

local REPEAT, limit, permits, deadline = ARGV[#ARGV] == 'repeat', tonumber(ARGV[4]), tonumber(ARGV[5]), now + ARGV[3]

-- include grant_if_free

-- include lock_keys
-- include spread_sole_holder
-- include grant
-- include library

local held, head = remove_expired()
local known = redis.call('HMGET', LOCK, token, 'held', 'fence')

if known[1] then -- a repeat: the reply was lost
  return extend(token, known[1], deadline)
end

if permits <= limit - held and (not head or head == token) then
  local fence = grant(token, permits, ARGV[6], deadline, known[3], held, limit)
  set_expiry(last_score(UNTIL))
  if head then
    redis.call('ZREM', LINE, token)
    redis.call('ZREM', ALIVE, token)
    redis.call('DEL', WAKE .. token)
    unlist_idle()
    if held + permits < math.max(limit, tonumber(free[3] or 0)) then
      wake_first()
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
    redis.call('ZADD', LINE, next_place(), token)
    place = redis.call('ZRANK', LINE, token)
  end
  redis.call('ZADD', ALIVE, 'GT', now + ARGV[7], token)
  set_line_expiry(limit)
end

return refusal(0, place, tonumber(ARGV[8]))
