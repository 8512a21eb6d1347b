-- Gives permits of a lease back, and wakes the first in line.
--
-- ARGV[3] how many permits are kept
-- Returns 1 when the token holds the lock, else 0

-- include records
-- include spread
-- include library

local record = redis.call('HGET', LOCK, token)
if not record or tonumber(redis.call('ZSCORE', UNTIL, token) or 0) <= now then
  return 0
end
local permits = string.match(record, '^%d+')
local given_back = permits - ARGV[3]
if given_back > 0 then
  -- include when_full
  redis.call('HSET', LOCK, token, ARGV[3] .. string.sub(record, #permits + 1))
  redis.call('HINCRBY', LOCK, 'held', string.format('%.0f', -given_back))
  tidy()
  wake()
end
return 1
