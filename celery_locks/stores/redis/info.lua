-- What is known of a lock. Changes nothing.
--
-- ARGV[3] most holders to name
-- Returns {waiting, permits held, holders …}

-- include library

-- include held_now
return name_holders({redis.call('ZCOUNT', ALIVE, string.format('(%.0f', now), '+inf'), held_now()}, tonumber(ARGV[3]))
