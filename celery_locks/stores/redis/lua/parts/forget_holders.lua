-- Removes the holders and all that is known of them. Keeps the fence, and what the line and late copies need.
-- Needs lock_keys.
local function forget_holders()
  local known = redis.call('HMGET', LOCK, 'fence', 'lined', 'void')
  redis.call('UNLINK', LOCK, UNTIL) -- in the background: there may be many holders
  if known[1] then
    redis.call('HSET', LOCK, 'fence', known[1])
    if redis.call('EXISTS', LINE) == 1 then
      redis.call('HSET', LOCK, 'lined', known[2] or 1)
    end
    if known[3] then
      redis.call('HSET', LOCK, 'void', known[3])
    end
    redis.call('PEXPIREAT', LOCK, math.ceil((now + FENCE_KEPT) / 1000))
  end
end
