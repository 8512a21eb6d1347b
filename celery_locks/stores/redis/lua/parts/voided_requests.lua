-- Copies of requests that must not change anything any more: they may still arrive, although their client has gone on.
-- Needs LOCK and now.
--
-- LOCK:void  sorted set: a copy -> since when it is void. A copy is "token id" for the first one, "token id repeat" for the
--            second one.
-- The field `void` of the lock exists if this set does: so most calls need not ask for it.

local VOID = LOCK .. ':void'

local function void(copy)
  redis.call('ZREMRANGEBYSCORE', VOID, '-inf', now - FENCE_KEPT) -- first, for a full server; see first_write
  redis.call('ZADD', VOID, now, copy)
  redis.call('ZREMRANGEBYRANK', VOID, 0, -1 - MOST_VOID)
  redis.call('PEXPIRE', VOID, FENCE_KEPT / 1000)
  redis.call('HSET', LOCK, 'void', 1)
  if redis.call('PTTL', LOCK) < FENCE_KEPT / 1000 then
    redis.call('PEXPIRE', LOCK, FENCE_KEPT / 1000)
  end
end
