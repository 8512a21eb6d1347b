-- The names of the other keys of a lock, all in its slot.
--
-- UNTIL  sorted set: token of a holder -> its deadline
-- LINE   sorted set: token of a waiter -> number of its place
-- ALIVE  sorted set: token of a waiter -> deadline of its place
-- WAKE   the beginning of the names of the wake-up lists

local UNTIL, LINE, ALIVE, WAKE = LOCK .. ':until', LOCK .. ':line', LOCK .. ':alive', LOCK .. ':wake:'
