-- Prolongs a lease.
--
-- ARGV[3] ttl
-- Returns 'renewed', or why it can't be; see renewed

-- include renewed

return renewed(ARGV[3])
