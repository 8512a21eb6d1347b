-- Prolongs a lease, if its deadline has not passed; never shortens it.
--
-- ARGV[3] ttl
-- Returns 'renewed', or why it can't be: 'expired', 'replaced', 'stolen', 'deleted'

local deadline = tonumber(redis.call('ZSCORE', UNTIL, token) or 0)
if deadline > now and redis.call('HEXISTS', LOCK, token) == 1 then
  redis.call('ZADD', UNTIL, 'GT', now + ARGV[3], token)
  local latest = redis.call('ZRANGE', UNTIL, -1, -1, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', UNTIL, math.ceil((latest + LINGER) / 1000))
  redis.call('PEXPIREAT', LOCK, math.ceil((latest + memory) / 1000))
  return 'renewed'
end
if deadline > 0 then
  return 'expired'
end
if redis.call('EXISTS', LOCK .. ':replaced:' .. token) == 1 then
  return 'replaced'
end

-- include library

return tidy() > 0 and 'stolen' or 'deleted'
