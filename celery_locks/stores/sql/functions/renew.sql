-- Renews many leases.
--
-- names, tokens, ttls: of each lease, the ttl in microseconds. patience: milliseconds to wait for other transactions; 0 to
-- skip locks whose row another transaction has locked.
--
-- Returns name and token of the renewed leases, and of the skipped ones.
CREATE OR REPLACE FUNCTION celery_locks_renew(names text[], tokens text[], ttls bigint[], patience bigint)
RETURNS TABLE (name text, token text, renewed boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    mine text[];
    moment bigint;
    longest bigint := (SELECT max(ttl) FROM unnest(ttls) AS ttl);
BEGIN
    -- Rows are locked in the order of their names, so that two transactions wait instead of colliding. Rows of holders
    -- are only changed with their lock's row locked.
    IF patience > 0 THEN
        PERFORM set_config('lock_timeout', patience::text, true);
        PERFORM FROM celery_locks_lock WHERE name = ANY (names) ORDER BY name FOR NO KEY UPDATE;
        mine := names;
    ELSE
        mine := ARRAY(
            SELECT name FROM celery_locks_lock WHERE name = ANY (names) ORDER BY name FOR NO KEY UPDATE SKIP LOCKED
        );
    END IF;
    moment := celery_locks_now((SELECT max(touched) FROM celery_locks_lock WHERE name = ANY (mine)));
    -- First the sole holders, which are in the rows of their locks.
    RETURN QUERY
    UPDATE celery_locks_lock l
    SET touched = greatest(l.touched, moment), deadline = greatest(l.deadline, greatest(l.touched, moment) + w.ttl),
        forget_at = greatest(l.forget_at, FORGET(moment + longest))
    FROM unnest(names, tokens, ttls) AS w (name, token, ttl)
    WHERE w.name = ANY (mine) AND l.name = w.name AND l.token = w.token AND l.deadline > greatest(l.touched, moment)
    RETURNING l.name, l.token, true;
    UPDATE celery_locks_lock
    SET touched = greatest(touched, moment), forget_at = greatest(forget_at, FORGET(moment + longest))
    WHERE name = ANY (mine) AND crowd = 1;
    RETURN QUERY
    UPDATE celery_locks_holder h SET deadline = greatest(h.deadline, l.touched + w.ttl)
    FROM unnest(names, tokens, ttls) AS w (name, token, ttl) JOIN celery_locks_lock l ON l.name = w.name
    WHERE w.name = ANY (mine) AND l.crowd = 1 AND h.name = w.name AND h.token = w.token AND h.deadline > l.touched
    RETURNING h.name, h.token, true;
    IF patience = 0 THEN
        RETURN QUERY
        SELECT w.name, w.token, false FROM unnest(names, tokens) AS w (name, token)
        WHERE w.name <> ALL (mine) AND EXISTS (SELECT FROM celery_locks_lock l WHERE l.name = w.name);
    END IF;
END
$$
