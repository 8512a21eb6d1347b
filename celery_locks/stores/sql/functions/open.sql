-- Locks the row of a lock for this transaction. It waits for the row, and inserts it if it is missing.
--
-- key: the lock. patience: milliseconds to wait for other transactions, all together.
--
-- Returns the row, with the lock's present moment in `touched`. Whatever is read afterwards is at least as new as the row.
CREATE OR REPLACE FUNCTION celery_locks_open(key text, patience bigint) RETURNS celery_locks_lock
LANGUAGE plpgsql AS $$
DECLARE
    mine celery_locks_lock;
BEGIN
    -- The server gives up before the client does. Otherwise it could grant a lease to a client that has gone.
    PERFORM set_config('lock_timeout', patience::text, true);
    SELECT * INTO mine FROM celery_locks_lock WHERE name = key FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        INSERT INTO celery_locks_lock AS l (name, touched, fence, watched, forget_at, crowd)
        VALUES (key, 0, (SELECT coalesce(max(last_fencing_token), 0) FROM celery_locks_meta), 0, FORGET(CLOCK), 0)
        ON CONFLICT (name) DO UPDATE SET touched = l.touched
        RETURNING * INTO mine;
    END IF;
    -- PostgreSQL waits for a row in steps, and the timeout starts again with each.
    IF TOO_LATE(patience) THEN
        RAISE lock_not_available USING MESSAGE = 'other transactions held the row of the lock for too long';
    END IF;
    mine.touched := greatest(mine.touched, celery_locks_now(mine.touched));
    RETURN mine;
END
$$
