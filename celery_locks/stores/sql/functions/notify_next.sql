-- Notifies the first waiter in line, if there are permits for it. Without a line, it notifies the watchers of a free lock.
--
-- mine: the lock's row, as `celery_locks_open` returned it. channel: the channel of the notice.
--
-- A waiter gets the hash of its own token, a watcher the hash of the lock's name. For a ticket, the sweepers of its broker
-- get a notice. `notice` in subscriptions.py makes the same texts.
CREATE OR REPLACE FUNCTION celery_locks_notify_next(mine celery_locks_lock, channel text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    head record;
BEGIN
    SELECT token, permits, most INTO head FROM celery_locks_waiter
    WHERE name = mine.name AND deadline > mine.touched ORDER BY id LIMIT 1;
    IF FOUND THEN
        PERFORM pg_notify(channel, CASE WHEN starts_with(head.token, 'ticket:')
            THEN 'due:' || left(encode(sha256(convert_to(coalesce((
                SELECT broker FROM celery_locks_ticket WHERE name = mine.name AND id = substr(head.token, 8)
            ), ''), 'UTF8')), 'hex'), 32)
            ELSE 'token:' || left(encode(sha256(convert_to(head.token, 'UTF8')), 'hex'), 32) END)
        WHERE head.permits + (SELECT coalesce(sum(permits), 0) FROM celery_locks_holder
            WHERE name = mine.name AND deadline > mine.touched) <= head.most;
    ELSIF mine.watched > mine.touched THEN
        PERFORM pg_notify(channel, 'name:' || left(encode(sha256(convert_to(mine.name, 'UTF8')), 'hex'), 32))
        WHERE NOT EXISTS (SELECT FROM celery_locks_holder WHERE name = mine.name AND deadline > mine.touched);
    END IF;
END
$$
