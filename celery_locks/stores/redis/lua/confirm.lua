-- Gives a lease the fencing token that a majority of servers agreed on, and keeps it as the lock's last one.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  the fencing token
--   ARGV[4]  1 to ask for the server's uptime
--
-- Returns the uptime in seconds, 0 if it is not asked for; or -1 if the token holds the lock no more.
--
-- Repeats: a second copy finds the fencing token in place.

-- include prelude

-- include lock_keys
-- include spread_sole_holder
-- include library

local record = redis.call('HGET', LOCK, token)
local ends = redis.call('ZSCORE', UNTIL, token)
if not record or tonumber(ends or 0) <= now then
  return -1
end
local permits, fence = string.match(record, '^(%d+) (%d+)')
if fence ~= ARGV[3] then
  unlist_holder(record, ends)
  local rest = string.sub(record, #permits + #fence + 2) -- by place: there may be a NUL in the owner's name
  redis.call('HSET', LOCK, token, permits .. ' ' .. ARGV[3] .. rest)
  if tonumber(ARGV[3]) > tonumber(redis.call('HGET', LOCK, 'fence') or 0) then
    redis.call('HSET', LOCK, 'fence', ARGV[3])
  end
  list_holder(ARGV[3], ends)
end
return ARGV[4] == '1' and tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)')) or 0
