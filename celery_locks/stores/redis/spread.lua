-- Who found the lock free is written down in the lock itself, in one command. What looks at more than that has it
-- spread to where all holders are, and goes on as if it had always been there. Needs records.
local sole = redis.call('HMGET', LOCK, 'sole', 'terms')
if sole[1] and sole[1] ~= '' then
  local ends, record = string.match(sole[2], '^(%d+) (.*)$')
  redis.call('HSET', LOCK, 'sole', '', 'terms', '', sole[1], record)
  redis.call('ZADD', UNTIL, ends, sole[1])
  redis.call('PEXPIREAT', UNTIL, math.ceil((ends + LINGER) / 1000))
end
