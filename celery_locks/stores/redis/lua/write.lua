-- Keeps a value with the lock, if this token holds it.
--
-- ARGV[3] value  ARGV[4] for how long  ARGV[5] numbers of requests of this token of which copies may be under way: from now
-- on they change nothing  ARGV[6] number of this request  and 'repeat', see prelude
-- LOCK:value  the value
-- Returns 1 when it was written, else 0

-- include records
-- include spread

local deadline = tonumber(redis.call('ZSCORE', UNTIL, token) or 0)
if deadline <= now or redis.call('HEXISTS', LOCK, token) == 0 then
  return 0
end
-- include when_full
local REPEAT = ARGV[#ARGV] == 'repeat'
if REPEAT or redis.call('HEXISTS', LOCK, 'void') == 1 then
  -- include late
end
if ARGV[5] ~= '' then
  -- include void_all
  void_all(ARGV[5])
end
redis.call('SET', LOCK .. ':value', ARGV[3], 'PX', math.ceil(ARGV[4] / 1000))
return 1
