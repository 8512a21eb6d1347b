-- Has a lock to this transaction alone: waits for its row, and makes it where there is none.
--
-- key: the lock. patience: milliseconds to wait for somebody else's transaction, each time that one is in the way.
--
-- Gives the row; `touched` is the lock's moment. What is looked at afterwards is no older than the row.
CREATE OR REPLACE FUNCTION celery_locks_open(key text, patience bigint) RETURNS celery_locks_lock
LANGUAGE plpgsql AS $$
DECLARE
    mine celery_locks_lock;
BEGIN
    -- The server gives up before the client does: what is granted to one that has gone would be nobody's for a ttl.
    PERFORM set_config('lock_timeout', patience::text, true);
    SELECT * INTO mine FROM celery_locks_lock WHERE name = key FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        INSERT INTO celery_locks_lock AS l (name, touched, fence, watched, released, forget_at)
        VALUES (key, 0, (SELECT coalesce(max(last_fencing_token), 0) FROM celery_locks_meta), 0, '', FORGET(CLOCK))
        ON CONFLICT (name) DO UPDATE SET touched = l.touched
        RETURNING * INTO mine;
    END IF;
    mine.touched := greatest(mine.touched, CLOCK);
    RETURN mine;
END
$$
