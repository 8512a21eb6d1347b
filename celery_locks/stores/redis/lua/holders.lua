-- Who holds the lock. Changes nothing.
--
-- ARGV[3] most holders to name
-- Returns {holders …}

-- include records
-- include library

return name_holders({}, tonumber(ARGV[3]))
