-- Takes away the value that is kept with a lock, whoever holds that.
--
-- KEYS[1] the value  KEYS[2] this call's mark: repeated after a lost reply, it gets the same answer and takes nothing more
-- Returns 1 when there was a value, else 0

local known = redis.call('GET', KEYS[2])
if known then
  return tonumber(known)
end
local gone = redis.call('UNLINK', KEYS[1])
if gone == 1 or ARGV[1] == 'repeat' then
  redis.call('SET', KEYS[2], gone, 'PX', 600000)
end
return gone
