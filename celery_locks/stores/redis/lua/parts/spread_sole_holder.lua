-- Changes the short form of a lock with one holder into the form that any number of holders has; see prelude. The rest of
-- the script needs to know the second form only. Needs lock_keys.

do
  -- include sole_holder
  local sole = sole_fields(LOCK)
  if sole then
    local ends, record = sole_record(sole)
    -- First, for a full server; see first_write.
    redis.call('HDEL', LOCK, 'sole', 'terms', 'owner', 'owner2', 'owner3')
    redis.call('HSET', LOCK, sole[1], record)
    redis.call('ZADD', UNTIL, ends, sole[1])
    redis.call('PEXPIREAT', UNTIL, math.ceil((ends + LINGER) / 1000))
  end
end
