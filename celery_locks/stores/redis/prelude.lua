-- What all scripts of a lock begin with. All times are microseconds of the server's clock.
--
-- KEYS[1] lock   hash: fence, held (sum of permits), released (the last call that released), lined (there where
--                anybody may stand in line), and for each holder token -> "permits fence since limit owner"; but of one
--                that found the lock free: sole -> token, terms -> "deadline permits fence since limit", owner (apart, since
--                values of over 64 bytes would double what the hash takes); see spread
-- ARGV[1] owner token  ARGV[2] what the names of all locks begin with, the colon included
--
-- What a call costs is what it asks the server for: one command less is worth more than lines of Lua.

local LOCK, token, PREFIX = KEYS[1], ARGV[1], ARGV[2]
-- What the lists over all locks know it by; see listed.
local NAME = string.sub(LOCK, #PREFIX + 1)
-- include clock
