-- Counts the permits that are held now. Changes nothing.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude

-- include prelude

-- include lock_keys
-- include permits_held

return permits_held()
