-- Gives the permits of a token back. Returns 1 when it gave up a lease that had not passed its deadline, else 0; and
-- whether anybody stands in line. Needs records and spread.
local function give_back()
  local lined = redis.call('EXISTS', LINE) == 1
  local known = redis.call('HMGET', LOCK, token, 'held', 'released')
  if not known[1] then
    return known[3] == ARGV[3] and 1 or 0, lined
  end
  local ends = redis.call('ZSCORE', UNTIL, token) or '0'
  local deadline = tonumber(ends)
  redis.call('HDEL', LOCK, token)
  redis.call('ZREM', UNTIL, token)
  local permits, fence = string.match(known[1], '^(%d+) (%d+)')
  local left = known[2] - permits
  local mark = fence .. ' ' .. NAME
  local name = left == 0 and not lined and 'n' .. NAME or 's' .. mark
  redis.call('ZREM', PREFIX .. 'locks', 's' .. mark, 'u' .. ends .. ' ' .. mark, name)
  if deadline > now then
    redis.call('HSET', LOCK, 'held', left, 'released', ARGV[3])
  else
    redis.call('HSET', LOCK, 'held', left)
  end
  if deadline - now > FENCE_KEPT and left == 0 then -- a long lease, given back early
    redis.call('PEXPIREAT', LOCK, math.ceil((now + FENCE_KEPT) / 1000))
  end
  return deadline > now and 1 or 0, lined
end
