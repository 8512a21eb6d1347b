-- The other records of a lock, all in its slot:
--
-- UNTIL  sorted set: token of a holder -> its deadline
-- LINE   sorted set: token of a waiter -> its number
-- ALIVE  sorted set: token of a waiter -> deadline of its place
-- WAKE   what the names of the wake-up lists begin with
local UNTIL, LINE, ALIVE, WAKE = LOCK .. ':until', LOCK .. ':line', LOCK .. ':alive', LOCK .. ':wake:'
