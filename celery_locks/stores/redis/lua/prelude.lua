-- What all scripts of a lock begin with. All times are microseconds of the server's clock.
--
-- KEYS[1] lock   hash: fence, held (sum of permits), lined (there where a waiter may stand in line: the highest limit of
--                the waiters), void (there where LOCK:void is), those of displaced, and for each holder
--                token -> "permits fence since limit tTTL owner"; but of one that found the lock free: sole -> token,
--                terms -> "deadline permits fence since limit TTL", with 0 for a since that is the fence; owner, owner2,
--                owner3 (parts of the owner, since a value of over 64 bytes would double what the hash takes); see spread
-- ARGV[1] owner token  ARGV[2] what the names of all locks begin with, the colon included
-- The last argument of a request that is sent again is 'repeat', for those scripts where it makes a difference.
--
-- What a call costs is what it asks the server for: one command less is worth more than lines of Lua.

local LOCK, token, PREFIX = KEYS[1], ARGV[1], ARGV[2]
-- What the lists over all locks know it by; see listed.
local NAME = string.sub(LOCK, #PREFIX + 1)
-- include clock
