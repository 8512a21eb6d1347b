-- Gives up the place in line. A wake-up that this token had goes to the next.
--
-- Returns 1 when there was a place, else 0

-- include records

redis.call('DEL', WAKE .. token)
local gone = redis.call('ZREM', LINE, token)
redis.call('ZREM', ALIVE, token)
if gone == 1 then
  -- include library
  wake()
  unlist_idle()
end
return gone
