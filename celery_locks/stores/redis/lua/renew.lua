-- Prolongs a lease.
--
-- ARGV[3] ttl
-- Returns 'renewed', or why it can't be; see renewed

-- include renewed

local said, error = tried(ARGV[3])
return error and error_of(error) or said
