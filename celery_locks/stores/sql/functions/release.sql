-- Releases a lease, if no ticket of a parked task must be settled.
--
-- key, claimant: the lock, the owner token. patience: see `celery_locks_open`. channel: see `celery_locks_notify_next`.
-- kept, keep: a value for the lock and for how many microseconds; NULL for none.
--
-- Returns whether this call released a lease that was held. Returns NULL if tickets must be settled; then nothing was done.
CREATE OR REPLACE FUNCTION celery_locks_release(
    key text, claimant text, patience bigint, channel text, kept text, keep bigint
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    mine celery_locks_lock;
    held boolean;
    setting text;
BEGIN
    setting := set_config('lock_timeout', patience::text, true);
    -- A sole holder is in the row of its lock. Its release takes one guarded statement.
    UPDATE celery_locks_lock l
    SET touched = greatest(l.touched, c.now), ended = claimant, token = '', deadline = 0
    FROM (SELECT CLOCK AS now) c
    WHERE l.name = key AND l.token = claimant AND l.deadline > greatest(l.touched, c.now)
        AND l.touched <= c.now + SET_BACK
    RETURNING l.* INTO mine;
    held := FOUND;
    IF NOT held THEN
        mine := celery_locks_move_holder(celery_locks_open(key, patience));
        IF celery_locks_has_tickets(mine) OR EXISTS (
            SELECT FROM celery_locks_ticket WHERE token = claimant AND state = 'running' AND name = key
        ) THEN
            RETURN NULL;
        END IF;
        DELETE FROM celery_locks_holder WHERE name = key AND token = claimant AND deadline > mine.touched;
        held := FOUND;
        UPDATE celery_locks_lock SET touched = mine.touched, forget_at = greatest(forget_at, FORGET(mine.touched)),
            ended = CASE WHEN held THEN claimant ELSE ended END, crowd = CROWDED(key, mine.touched)
        WHERE name = key;
    END IF;
    IF held AND kept IS NOT NULL THEN
        INSERT INTO celery_locks_value AS v (name, text, deadline) VALUES (key, kept, mine.touched + keep)
        ON CONFLICT (name) DO UPDATE SET text = kept, deadline = excluded.deadline;
    END IF;
    IF mine.crowd = 1 OR mine.watched > mine.touched THEN
        PERFORM celery_locks_notify_next(mine, channel);
    END IF;
    IF kept IS NULL THEN
        -- If the server crashes now, the lease may be back until its deadline. That delays others, and excludes no less.
        setting := set_config('synchronous_commit', 'off', true);
    END IF;
    RETURN held;
END
$$
