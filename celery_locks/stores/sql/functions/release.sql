-- `Store.release`, where no parked task has to do with it.
--
-- key, claimant: the lock, the owner token. patience: see `celery_locks_open`. channel: see `celery_locks_tell`.
-- kept, keep: a value for the lock and for how many microseconds; NULL for none.
--
-- Gives whether this call gave up a lease that lived; NULL where tickets have to be settled: nothing was done.
CREATE OR REPLACE FUNCTION celery_locks_release(
    key text, claimant text, patience bigint, channel text, kept text, keep bigint
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    mine celery_locks_lock;
    held boolean;
BEGIN
    mine := celery_locks_open(key, patience);
    held := mine.token = claimant AND mine.deadline > mine.touched;  -- it is in the row, and no one waits
    IF NOT held THEN
        mine := celery_locks_spill(mine);
        IF celery_locks_parks(mine) OR EXISTS (
            SELECT FROM celery_locks_ticket WHERE token = claimant AND state = 'running' AND name = key
        ) THEN
            RETURN NULL;
        END IF;
        DELETE FROM celery_locks_holder WHERE name = key AND token = claimant AND deadline > mine.touched;
        held := FOUND;
    END IF;
    IF held AND kept IS NOT NULL THEN
        INSERT INTO celery_locks_value AS v (name, text, deadline) VALUES (key, kept, mine.touched + keep)
        ON CONFLICT (name) DO UPDATE SET text = kept, deadline = excluded.deadline;
    END IF;
    UPDATE celery_locks_lock SET touched = mine.touched, forget_at = greatest(forget_at, FORGET(mine.touched)),
        ended = CASE WHEN held THEN claimant ELSE ended END, token = '', deadline = 0,
        crowd = CASE WHEN mine.crowd = 0 THEN 0 ELSE CROWDED(key, mine.touched) END
    WHERE name = key;
    IF mine.crowd = 1 OR mine.watched > mine.touched THEN
        PERFORM celery_locks_tell(mine, channel);
    END IF;
    IF kept IS NULL THEN
        -- If the server crashes now, the lease may live again until its deadline, without a holder: nobody is let in by it.
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    RETURN held;
END
$$
