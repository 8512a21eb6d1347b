-- Gives the permits of a token back. Returns 1 when it gave up a lease that had not passed its deadline, else 0.
local function give_back()
  local known = redis.call('HMGET', LOCK, token, 'held', 'released')
  if not known[1] then
    return known[3] == ARGV[3] and 1 or 0
  end
  local deadline = tonumber(redis.call('ZSCORE', UNTIL, token) or 0)
  redis.call('HDEL', LOCK, token)
  redis.call('ZREM', UNTIL, token)
  local left = known[2] - string.match(known[1], '^%d+')
  if deadline > now then
    redis.call('HSET', LOCK, 'held', left, 'released', ARGV[3])
  else
    redis.call('HSET', LOCK, 'held', left)
  end
  if deadline - now > memory and left == 0 then -- a long lease, given back early
    redis.call('PEXPIREAT', LOCK, math.ceil((now + memory) / 1000))
  end
  return deadline > now and 1 or 0
end
