-- The beginning of the scripts about the list of locks.
--
-- KEYS[1]  sorted set <prefix>locks. All scores are 0, so it is in the order of its members:
--            n<name>                     a lock with a holder or a waiter
--            s<fence> <name>             a holder, by its fencing token: that is near the time of its acquisition
--            u<deadline> <fence> <name>  a holder, by its deadline
--            .                           always there; see lock_list
--          Names are without the prefix, to save memory. Times have 16 digits until the year 2286. The scripts of each lock
--          maintain the list. It only names locks that may be held: the keys of a lock decide.
-- KEYS[2]  sorted set <prefix>lines: a lock with waiters -> when the last place in its line ends

-- include clock
local PREFIX = string.sub(KEYS[1], 1, -6)
local living = string.format('(%.0f', now)
-- include unlist_expired
