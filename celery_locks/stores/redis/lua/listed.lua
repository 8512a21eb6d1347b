-- What the scripts over the list begin with.
--
-- KEYS[1] sorted set <prefix>locks, all of score 0, so it is in the order of its members:
--           n<name>                        a lock that is held, or that somebody waits for
--           s<fence> <name>                a holder, by when it acquired: a fencing token is near the time
--           u<deadline> <fence> <name>     a holder, by its deadline
--           .                              always, so that the list and its expiry stay when nobody holds anything
--         Names are here without the prefix, which would take 13 bytes of each.
--         Times are microseconds of the server's clock, which have 16 digits until the year 2286. The list is kept up
--         by the scripts of each lock, and tells where to look: what is so, each lock knows itself.
-- KEYS[2] sorted set <prefix>lines: lock that somebody waits for -> when the last place in line ends

-- include clock
local PREFIX = string.sub(KEYS[1], 1, -6)
local living = string.format('(%.0f', now)
-- include unlist_expired
