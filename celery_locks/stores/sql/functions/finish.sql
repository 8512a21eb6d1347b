-- Ends a transaction that had a lock to itself: writes its row, and tells who may go.
--
-- key: the lock. last: its last fencing token. call: its last release. channel: see `celery_locks_tell`. notices: what else
-- is told there.
CREATE OR REPLACE FUNCTION celery_locks_finish(key text, last bigint, call text, channel text, notices text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    mine celery_locks_lock;
BEGIN
    UPDATE celery_locks_lock SET fence = last, released = call WHERE name = key RETURNING * INTO mine;
    PERFORM celery_locks_tell(mine, channel);
    PERFORM pg_notify(channel, notice) FROM unnest(notices) AS notice;
END
$$
