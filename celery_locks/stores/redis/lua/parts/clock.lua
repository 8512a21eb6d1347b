-- The constants, and the server's time. Needs nothing.

-- constants
-- How long a deadline is kept after it has passed. Until then a renewal returns 'expired', afterwards 'deleted'.
local LINGER = 60000000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
