-- Gives the permits back of who found the lock free, if nobody has looked at more than that since.
local known = redis.call('HMGET', LOCK, 'sole', 'terms', 'lined')
if known[1] == token and not known[3] then
  local ends, fence = string.match(known[2], '^(%d+) %d+ (%d+)')
  local mark, left = fence .. ' ' .. NAME, ends - now
  redis.call('ZREM', PREFIX .. 'locks', 'n' .. NAME, 's' .. mark, 'u' .. ends .. ' ' .. mark)
  if left <= 0 then
    redis.call('HSET', LOCK, 'held', 0, 'sole', '')
    return 0
  end
  redis.call('HSET', LOCK, 'held', 0, 'sole', '', 'released', ARGV[3])
  if left > FENCE_KEPT then -- a long lease, given back early
    redis.call('PEXPIREAT', LOCK, math.ceil((now + FENCE_KEPT) / 1000))
  end
  return 1
end

-- include records
-- include spread
