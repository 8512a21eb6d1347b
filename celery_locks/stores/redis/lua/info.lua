-- Describes a lock. Changes nothing.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  how many holders to name at most
--   ARGV[4]  how many waiters to look at at most
--
-- Returns {number of waiters, permits held, {owner, task, token of each waiter, …}, holders …}. An unknown owner or task
-- is ''.

-- include prelude

-- include lock_keys
-- include library

-- include permits_held
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
return append_holders({waiting, permits_held(), line}, tonumber(ARGV[3]))
