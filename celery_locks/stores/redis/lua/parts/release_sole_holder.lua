-- Releases the lease of the sole holder and ends the script, if the lock has its short form and no waiters; see prelude.
-- Otherwise changes the form and goes on. Needs value and keep_value.

local known = redis.call('HMGET', LOCK, 'sole', 'terms', 'lined')
if known[1] == token and not known[3] then
  local ends, fence = string.match(known[2], '^(%d+) %d+ (%d+)')
  local mark, left = fence .. ' ' .. NAME, ends - now
  redis.call('ZREM', PREFIX .. 'locks', 'n' .. NAME, 's' .. mark, 'u' .. ends .. ' ' .. mark)
  redis.call('HDEL', LOCK, 'held', 'sole', 'terms', 'owner', 'owner2', 'owner3')
  if left <= 0 then
    return 0
  end
  if keep_value then
    redis.call('SET', LOCK .. ':value', value, 'PX', math.ceil(keep_value / 1000))
  end
  if left > FENCE_KEPT then -- a long lease that was released early
    redis.call('PEXPIREAT', LOCK, math.ceil((now + FENCE_KEPT) / 1000))
  end
  return 1
end

-- include lock_keys
-- include spread_sole_holder
