-- `Store.renew`: prolongs many leases.
--
-- names, tokens, ttls: of each lease, the ttl in microseconds. patience: see `celery_locks_open`.
--
-- Gives name and token of those that were prolonged.
CREATE OR REPLACE FUNCTION celery_locks_renew(names text[], tokens text[], ttls bigint[], patience bigint)
RETURNS TABLE (name text, token text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('lock_timeout', patience::text, true);
    -- In the order of their names: two that need the same rows wait instead of colliding. Holders' rows are changed
    -- only by who has their lock's row.
    PERFORM FROM celery_locks_lock WHERE name = ANY (names) ORDER BY name FOR NO KEY UPDATE;
    UPDATE celery_locks_lock SET touched = greatest(touched, CLOCK), forget_at = FORGET(CLOCK) WHERE name = ANY (names);
    RETURN QUERY
    UPDATE celery_locks_holder h SET deadline = greatest(h.deadline, l.touched + w.ttl)
    FROM unnest(names, tokens, ttls) AS w (name, token, ttl) JOIN celery_locks_lock l ON l.name = w.name
    WHERE h.name = w.name AND h.token = w.token AND h.deadline > l.touched RETURNING h.name, h.token;
END
$$
