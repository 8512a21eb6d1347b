-- Gives the permits back and wakes the first in line.
--
-- ARGV[3] a name for this call: repeated after a lost reply, it gets the same answer
-- Returns 1 when this call gave up a lease that had not passed its deadline, else 0

local deadline = redis.call('ZSCORE', UNTIL, token)
if not drop(token) then
  return redis.call('HGET', LOCK, 'released') == ARGV[3] and 1 or 0
end
local in_time = deadline and tonumber(deadline) > now
if in_time then
  redis.call('HSET', LOCK, 'released', ARGV[3])
end
expire(LOCK, math.max(last(UNTIL) or 0, now) + memory)
wake()
return in_time and 1 or 0
