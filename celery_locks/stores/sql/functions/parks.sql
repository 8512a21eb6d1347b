-- Whether a task is parked in a lock's line.
--
-- mine: the lock's row, as `celery_locks_open` gave it.
CREATE OR REPLACE FUNCTION celery_locks_parks(mine celery_locks_lock) RETURNS boolean
LANGUAGE sql STABLE AS $$
    -- A range of the primary key, however many wait who are no tickets.
    SELECT EXISTS (SELECT FROM celery_locks_waiter
        WHERE name = mine.name AND token >= 'ticket:' AND token < 'ticket;' AND deadline > mine.touched)
$$
