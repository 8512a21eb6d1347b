-- Deletes the value of a lock, whether the lock is held or not.
--
--   KEYS[1]  the value
--   KEYS[2]  a key named by the id of the request: the answer
--
-- Returns 1 if there was a value, otherwise 0.
--
-- Repeats: each copy returns the kept answer and deletes nothing more.

local known = redis.call('GET', KEYS[2])
if known then
  return tonumber(known)
end
local gone = redis.call('UNLINK', KEYS[1])
if gone == 1 or ARGV[1] == 'repeat' then
  redis.call('SET', KEYS[2], gone, 'PX', 600000)
end
return gone
