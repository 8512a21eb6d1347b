-- Ends a transaction that had a lock to itself: writes its row, and tells who may go.
--
-- key: the lock. moment: now. last: its last fencing token. last_ended: the token whose lease ended last. until: when the row is
-- forgotten at the earliest. channel: see `celery_locks_tell`. notices: what else is told there.
CREATE OR REPLACE FUNCTION celery_locks_finish(
    key text, moment bigint, last bigint, last_ended text, until bigint, channel text, notices text[]
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    mine celery_locks_lock;
BEGIN
    UPDATE celery_locks_lock
    SET touched = moment, fence = last, ended = last_ended, forget_at = greatest(until, FORGET(moment)),
        crowd = CROWDED(key, moment)
    WHERE name = key RETURNING * INTO mine;
    PERFORM celery_locks_tell(mine, channel);
    PERFORM pg_notify(channel, notice) FROM unnest(notices) AS notice;
END
$$
