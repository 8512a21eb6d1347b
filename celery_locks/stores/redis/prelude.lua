-- What all scripts of a lock begin with. All times are microseconds of the server's clock.
--
-- KEYS[1] lock   hash: fence, held (sum of permits), released (the last call that released), and for each holder
--                token -> "permits fence since limit owner"
-- KEYS[2] until  sorted set: token of a holder -> its deadline
-- KEYS[3] line   sorted set: token of a waiter -> its number
-- KEYS[4] alive  sorted set: token of a waiter -> deadline of its place
-- KEYS[5] what the names of the wake-up lists begin with (all in the same slot)
-- ARGV[1] owner token  ARGV[2] what the names of all locks begin with, the colon included

local LOCK, UNTIL, LINE, ALIVE, WAKE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, PREFIX = ARGV[1], ARGV[2]
-- constants
-- How long a deadline stays known after it has passed, so that its holder is told "expired" and not "deleted".
local LINGER = 60000000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
