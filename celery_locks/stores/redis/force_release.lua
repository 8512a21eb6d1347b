-- Takes the lease from all holders and wakes the first in line.
--
-- ARGV[3] most holders to name
-- Returns {holders …}

-- include library

tidy()
local answer = name_holders({}, tonumber(ARGV[3]))
local fence = redis.call('HGET', LOCK, 'fence')
redis.call('DEL', LOCK, UNTIL)
if fence then
  redis.call('HSET', LOCK, 'fence', fence)
  redis.call('PEXPIREAT', LOCK, math.ceil((now + memory) / 1000))
end
wake()
return answer
