-- Keeps a value with the lock, if this token holds it.
--
-- ARGV[3] value  ARGV[4] for how long
-- LOCK:value  the value
-- Returns 1 when it was written, else 0

-- include records
-- include spread

local deadline = tonumber(redis.call('ZSCORE', UNTIL, token) or 0)
if deadline <= now or redis.call('HEXISTS', LOCK, token) == 0 then
  return 0
end
-- include when_full
redis.call('SET', LOCK .. ':value', ARGV[3], 'PX', math.ceil(ARGV[4] / 1000))
return 1
