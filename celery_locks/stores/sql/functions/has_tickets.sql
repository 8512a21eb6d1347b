-- Returns whether a task is parked in a lock's line.
--
-- mine: the lock's row, as `celery_locks_open` returned it.
CREATE OR REPLACE FUNCTION celery_locks_has_tickets(mine celery_locks_lock) RETURNS boolean
LANGUAGE sql STABLE AS $$
    -- A range of the primary key, however many other waiters there are.
    SELECT EXISTS (SELECT FROM celery_locks_waiter
        WHERE name = mine.name AND token >= 'ticket:' AND token < 'ticket;' AND deadline > mine.touched)
$$
