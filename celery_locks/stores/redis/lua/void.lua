-- Copies of requests that may still be under way, although their client has gone on. Needs LOCK, token and now.
--
-- LOCK:void  sorted set: copy of a request that changes nothing any more -> since when. A copy is an owner token, the number
--            of the request, and 'repeat' for the second one.
-- The field `void` of the lock says that there is such a set: so a lock without one is not asked for it.
local VOID = LOCK .. ':void'

local function void(copy)
  redis.call('ZREMRANGEBYSCORE', VOID, '-inf', now - FENCE_KEPT) -- first, for a full server; see when_full
  redis.call('ZADD', VOID, now, copy)
  redis.call('ZREMRANGEBYRANK', VOID, 0, -1 - MOST_VOID)
  redis.call('PEXPIRE', VOID, FENCE_KEPT / 1000)
  redis.call('HSET', LOCK, 'void', 1)
  if redis.call('PTTL', LOCK) < FENCE_KEPT / 1000 then
    redis.call('PEXPIRE', LOCK, FENCE_KEPT / 1000)
  end
end
