-- Keeps a value with the lock, if this token holds it.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  value
--   ARGV[4]  for how long
--   ARGV[5]  ids of requests of this token whose copies may be under way; they are voided, see void_requests
--   ARGV[6]  id of the request, then maybe 'repeat'
--   LOCK:value  the value
--
-- Returns 1 if the value was written, otherwise 0.
--
-- Repeats: both copies write the same value. A copy that comes after a later one is refused; see refuse_late_copy.

-- include prelude

-- include lock_keys
-- include spread_sole_holder

local deadline = tonumber(redis.call('ZSCORE', UNTIL, token) or 0)
if deadline <= now or redis.call('HEXISTS', LOCK, token) == 0 then
  return 0
end
-- include first_write
local REPEAT = ARGV[#ARGV] == 'repeat'
if REPEAT or redis.call('HEXISTS', LOCK, 'void') == 1 then
  -- include refuse_late_copy
end
if ARGV[5] ~= '' then
  -- include void_requests
  void_requests(ARGV[5])
end
redis.call('SET', LOCK .. ':value', ARGV[3], 'PX', math.ceil(ARGV[4] / 1000))
return 1
