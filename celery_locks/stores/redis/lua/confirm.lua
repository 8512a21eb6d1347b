-- Gives a holder the fencing token that a majority of servers agreed on, and has the lock remember it.
--
-- ARGV[3] the fencing token  ARGV[4] 1 to ask for how long this server is up
-- Returns for how many seconds it is up, or 0; -1 when the token holds the lock no more

-- include records
-- include spread
-- include library

local record = redis.call('HGET', LOCK, token)
local ends = redis.call('ZSCORE', UNTIL, token)
if not record or tonumber(ends or 0) <= now then
  return -1
end
local permits, fence = string.match(record, '^(%d+) (%d+)')
if fence ~= ARGV[3] then
  unlist(record, ends)
  local rest = string.sub(record, #permits + #fence + 2) -- by place: there may be a NUL in the owner's name
  redis.call('HSET', LOCK, token, permits .. ' ' .. ARGV[3] .. rest)
  if tonumber(ARGV[3]) > tonumber(redis.call('HGET', LOCK, 'fence') or 0) then
    redis.call('HSET', LOCK, 'fence', ARGV[3])
  end
  list(ARGV[3], ends)
end
return ARGV[4] == '1' and tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)')) or 0
