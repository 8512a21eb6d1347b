-- include marks

-- Gives the permits of a token back. Returns 1 when it gave up a lease that had not passed its deadline, else 0; and
-- whether anybody stands in line.
local function give_back()
  local lined = redis.call('EXISTS', LINE) == 1
  local known = redis.call('HMGET', LOCK, token, 'held', 'released')
  if not known[1] then
    return known[3] == ARGV[3] and 1 or 0, lined
  end
  local deadline = tonumber(redis.call('ZSCORE', UNTIL, token) or 0)
  redis.call('HDEL', LOCK, token)
  redis.call('ZREM', UNTIL, token)
  local permits, fence, since = string.match(known[1], '^(%d+) (%d+) (%d+)')
  local left = known[2] - permits
  local marked = mark(since, fence)
  local name = left == 0 and not lined and 'n' .. LOCK or 's' .. marked
  redis.call('ZREM', PREFIX .. 'locks', 's' .. marked, until_mark(deadline, marked), name)
  if deadline > now then
    redis.call('HSET', LOCK, 'held', left, 'released', ARGV[3])
  else
    redis.call('HSET', LOCK, 'held', left)
  end
  if deadline - now > memory and left == 0 then -- a long lease, given back early
    redis.call('PEXPIREAT', LOCK, math.ceil((now + memory) / 1000))
  end
  return deadline > now and 1 or 0, lined
end
