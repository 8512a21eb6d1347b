-- Takes away the value that is kept with a lock, whoever holds that.
--
-- KEYS[1] the value  KEYS[2] this call's mark: repeated after a lost reply, it gets the same answer and takes nothing more
-- Returns 1 when there was a value, else 0

if redis.call('EXISTS', KEYS[2]) == 1 then
  return 1
end
local gone = redis.call('UNLINK', KEYS[1])
if gone == 1 then
  redis.call('SET', KEYS[2], 1, 'PX', 60000)
end
return gone
