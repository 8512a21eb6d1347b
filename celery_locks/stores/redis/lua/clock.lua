-- constants
-- How long a deadline stays known after it has passed, so that its holder is told "expired" and not "deleted".
local LINGER = 60000000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
