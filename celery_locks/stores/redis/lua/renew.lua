-- Renews one lease.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  ttl
--
-- Returns 'renewed', or why the lease can't be renewed; see renew_lease.
--
-- Repeats: the deadline is moved to the same ttl from now, so a second copy changes nothing that matters.

-- include prelude

-- include renew_lease

local result, error = try_renew(ARGV[3])
return error and error_reply(error) or result
