-- Counts the waiters. Changes nothing.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude

-- include prelude

return redis.call('ZCOUNT', LOCK .. ':alive', string.format('(%.0f', now), '+inf')
