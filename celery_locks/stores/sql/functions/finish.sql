-- Ends a transaction that has locked a lock's row: writes the row and sends notices.
--
-- key: the lock. moment: now. last: its last fencing token. last_ended: the token of the lease that ended last. until: the row
-- is kept until then at least. channel: see `celery_locks_notify_next`. notices: further notices for the channel.
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
    PERFORM celery_locks_notify_next(mine, channel);
    PERFORM pg_notify(channel, notice) FROM unnest(notices) AS notice;
END
$$
