-- Who found the lock free is written down in the lock itself, in one command. What looks at more than that has it
-- spread to where all holders are, and goes on as if it had always been there. Needs records.
local sole = redis.call('HMGET', LOCK, 'sole', 'terms', 'owner')
if sole[1] and sole[1] ~= '' then
  local ends, terms = string.match(sole[2], '^(%d+) (.*)$')
  redis.call('HDEL', LOCK, 'sole', 'terms', 'owner') -- first: a full server lets a script write after it; see when_full
  redis.call('HSET', LOCK, sole[1], terms .. ' ' .. sole[3])
  redis.call('ZADD', UNTIL, ends, sole[1])
  redis.call('PEXPIREAT', UNTIL, math.ceil((ends + LINGER) / 1000))
end
