-- Score of the last member of a sorted set.
local function last(set)
  return tonumber(redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')[2])
end

-- Keeps what is written until the latest deadline, and the fence for longer.
local function keep(latest)
  redis.call('PEXPIREAT', UNTIL, math.ceil((latest + LINGER) / 1000))
  redis.call('PEXPIREAT', LOCK, math.ceil((latest + FENCE_KEPT) / 1000))
end
