-- What is known of a lock. Changes nothing.
--
-- ARGV[3] most holders to name  ARGV[4] most of those in line to look at
-- Returns {waiting, permits held, {owner, task and token of who stands in line, '' where not known, …}, holders …}

-- include records
-- include library

-- include held_now
local line = {}
for _, waiter in ipairs(redis.call('ZRANGE', LINE, 0, tonumber(ARGV[4]) - 1)) do
  if tonumber(redis.call('ZSCORE', ALIVE, waiter) or 0) > now then
    local known = {}
    if string.sub(waiter, 1, #TICKET) == TICKET then
      known = redis.call('HMGET', LOCK .. ':ticket:' .. string.sub(waiter, #TICKET + 1), 'owner', 'task')
    end
    line[#line + 1] = known[1] or ''
    line[#line + 1] = known[2] or ''
    line[#line + 1] = waiter
  end
end
local waiting = redis.call('ZCOUNT', ALIVE, string.format('(%.0f', now), '+inf')
return name_holders({waiting, held_now(), line}, tonumber(ARGV[3]))
