-- `Store.release`, where no parked task has to do with it.
--
-- key, claimant: the lock, the owner token. call: what this release is called, however often it is tried.
-- patience: see `celery_locks_open`. channel: see `celery_locks_tell`.
--
-- Gives whether this call gave up a lease that lived; NULL where tickets have to be looked after: nothing was done.
CREATE OR REPLACE FUNCTION celery_locks_release(key text, claimant text, call text, patience bigint, channel text)
RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    mine celery_locks_lock;
    held boolean;
BEGIN
    SELECT * INTO mine FROM celery_locks_open(key, patience);
    IF mine.released = call THEN  -- only its reply was lost
        RETURN true;
    END IF;
    IF celery_locks_parks(mine) OR EXISTS (
        SELECT FROM celery_locks_ticket WHERE token = claimant AND state = 'running' AND name = key
    ) THEN
        RETURN NULL;
    END IF;
    DELETE FROM celery_locks_holder WHERE name = key AND token = claimant AND deadline > mine.touched;
    held := FOUND;
    UPDATE celery_locks_lock SET touched = mine.touched, forget_at = FORGET(mine.touched),
        released = CASE WHEN held THEN call ELSE released END
    WHERE name = key;
    PERFORM celery_locks_tell(mine, channel);
    -- If the server crashes now, the lease may live again until its deadline, without a holder: nobody is let in by it.
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN held;
END
$$
