-- Leaves the line, if no task is parked in it.
--
-- key, claimant: the lock, the owner token. patience: see `celery_locks_open`. channel: see `celery_locks_notify_next`.
--
-- Returns false if a task is parked in the line. Then nothing was done.
CREATE OR REPLACE FUNCTION celery_locks_leave(key text, claimant text, patience bigint, channel text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    mine celery_locks_lock;
BEGIN
    mine := celery_locks_move_holder(celery_locks_open(key, patience));
    IF celery_locks_has_tickets(mine) THEN
        RETURN false;
    END IF;
    DELETE FROM celery_locks_waiter WHERE name = key AND token = claimant;
    UPDATE celery_locks_lock SET touched = mine.touched, forget_at = greatest(forget_at, FORGET(mine.touched)),
        crowd = CROWDED(key, mine.touched)
    WHERE name = key;
    PERFORM celery_locks_notify_next(mine, channel);
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN true;
END
$$
