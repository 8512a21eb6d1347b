-- Keeps some permits of a lease, releases the others, and wakes the first in line.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  how many permits are kept
--
-- Returns 1 if the token holds the lock, otherwise 0.
--
-- Repeats: the number of kept permits is given, so a second copy releases none.

-- include prelude

-- include lock_keys
-- include spread_sole_holder
-- include library

local record = redis.call('HGET', LOCK, token)
if not record or tonumber(redis.call('ZSCORE', UNTIL, token) or 0) <= now then
  return 0
end
local permits = string.match(record, '^%d+')
local released = permits - ARGV[3]
if released > 0 then
  -- include first_write
  redis.call('HSET', LOCK, token, ARGV[3] .. string.sub(record, #permits + 1))
  redis.call('HINCRBY', LOCK, 'held', string.format('%.0f', -released))
  remove_expired()
  wake_first()
end
return 1
