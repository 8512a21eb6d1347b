-- Prolongs a lease, if its deadline has not passed; never shortens it.
--
-- ARGV[3] ttl
-- Returns 'renewed', or why it can't be: 'expired', 'stolen', 'deleted'

local deadline = redis.call('ZSCORE', UNTIL, token)
if deadline and tonumber(deadline) > now and redis.call('HEXISTS', LOCK, token) == 1 then
  redis.call('ZADD', UNTIL, 'GT', text(now + ARGV[3]), token)
  local latest = last(UNTIL)
  expire(UNTIL, latest + LINGER)
  expire(LOCK, latest + memory)
  return 'renewed'
end
if deadline then
  return 'expired'
end
local held = tidy()
return held > 0 and 'stolen' or 'deleted'
