-- The beginning of each script about one lock. All times are microseconds of the server's clock.
--
-- KEYS[1]  LOCK, a hash with these fields:
--            fence    the last fencing token
--            held     sum of the held permits
--            lined    exists if there may be waiters: the highest limit of a waiter
--            void     exists if LOCK:void exists; see voided_requests
--            <token>  for each holder: "permits fence since limit tTTL owner"
--            of, by   see displacement
--          A holder that found the lock free is written with one command. Instead of <token> there are the fields
--            sole     its token
--            terms    "deadline permits fence since limit TTL"; the field `since` is 0 if it equals the fence
--            owner, owner2, owner3: the owner in parts, since one value above 64 bytes would double the hash's memory
--          A script that needs more than these rewrites them into the other form; see spread_sole_holder.
-- ARGV[1]  owner token
-- ARGV[2]  prefix of the names of all locks, with its colon
--          The last argument of a request that is sent a second time is 'repeat', if the script needs to know.
--
-- A script's time is the number of its commands: one command less is worth more than many lines of Lua.

local LOCK, token, PREFIX = KEYS[1], ARGV[1], ARGV[2]
-- The name in the lists of all locks; see lock_list_prelude.
local NAME = string.sub(LOCK, #PREFIX + 1)
-- include clock
