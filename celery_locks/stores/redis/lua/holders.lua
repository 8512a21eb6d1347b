-- Names the holders. Changes nothing.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  how many holders to name at most
--
-- Returns {holders …}; see append_holders in library.

-- include prelude

-- include lock_keys
-- include library

return append_holders({}, tonumber(ARGV[3]))
