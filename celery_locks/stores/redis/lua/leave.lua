-- Takes a token out of the line. If the token had a wake-up, the next in line gets it.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--
-- Returns 1 if the token was in line, otherwise 0.
--
-- Repeats: a second copy finds no place.

-- include prelude

-- include lock_keys

redis.call('DEL', WAKE .. token)
local gone = redis.call('ZREM', LINE, token)
redis.call('ZREM', ALIVE, token)
if gone == 1 then
  -- include library
  wake_first()
  unlist_idle()
end
return gone
