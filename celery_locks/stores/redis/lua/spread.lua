-- Who found the lock free is written down in the lock itself, in one command. What looks at more than that has it
-- spread to where all holders are, and goes on as if it had always been there. Needs records.
do
  -- include sole
  local sole = sole_fields(LOCK)
  if sole then
    local ends, record = sole_record(sole)
    -- First: a full server lets a script write after it; see when_full.
    redis.call('HDEL', LOCK, 'sole', 'terms', 'owner', 'owner2', 'owner3')
    redis.call('HSET', LOCK, sole[1], record)
    redis.call('ZADD', UNTIL, ends, sole[1])
    redis.call('PEXPIREAT', UNTIL, math.ceil((ends + LINGER) / 1000))
  end
end
