-- When the keys of a lock expire. Needs lock_keys.

-- Returns the score of the last member of a sorted set.
local function last_score(set)
  return tonumber(redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')[2])
end

-- Has the holders expire after the latest deadline, and the fence later.
local function set_expiry(latest)
  redis.call('PEXPIREAT', UNTIL, math.ceil((latest + LINGER) / 1000))
  redis.call('PEXPIREAT', LOCK, math.ceil((latest + FENCE_KEPT) / 1000))
end
