-- Prolongs a lease, if its deadline has not passed; never shortens it.
--
-- ARGV[3] ttl
-- Returns 'renewed', or why it can't be: 'expired', 'replaced', 'stolen', 'deleted'

local before = redis.call('ZSCORE', UNTIL, token) or '0'
local deadline = tonumber(before)
local record = deadline > now and redis.call('HGET', LOCK, token)
if record then
  -- include marks
  local fence, ends = string.match(record, '^%d+ (%d+)'), string.format('%.0f', math.max(deadline, now + ARGV[3]))
  redis.call('ZADD', UNTIL, ends, token)
  redis.call('ZREM', PREFIX .. 'locks', 'u' .. before .. ' ' .. fence .. ' ' .. LOCK)
  list(fence, ends) -- all of it: the list may have been lost
  local latest = redis.call('ZRANGE', UNTIL, -1, -1, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', UNTIL, math.ceil((latest + LINGER) / 1000))
  redis.call('PEXPIREAT', LOCK, math.ceil((latest + FENCE_KEPT) / 1000))
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
