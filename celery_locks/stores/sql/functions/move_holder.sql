-- Moves a lock's only holder from the lock's row to the table of holders. All functions but a plain acquire and its release
-- expect holders there. The caller writes the row at the end, with CROWDED for its `crowd`.
--
-- mine: the lock's row, as `celery_locks_open` returned it.
--
-- Returns the row as it is now.
CREATE OR REPLACE FUNCTION celery_locks_move_holder(mine celery_locks_lock) RETURNS celery_locks_lock
LANGUAGE plpgsql AS $$
BEGIN
    IF mine.token <> '' THEN  -- also an expired one, so that its late renewal gets the reason
        INSERT INTO celery_locks_holder AS h (name, token, owner, permits, most, fencing_token, since, deadline)
        VALUES (mine.name, mine.token, mine.owner, mine.permits, mine.most, mine.fence, mine.since, mine.deadline)
        ON CONFLICT (name, token) DO UPDATE SET owner = excluded.owner, permits = excluded.permits, most = excluded.most,
            fencing_token = excluded.fencing_token, since = excluded.since, deadline = excluded.deadline;
        UPDATE celery_locks_lock SET token = '', deadline = 0, crowd = 1 WHERE name = mine.name;
        mine.token := '';
        mine.deadline := 0;
    END IF;
    mine.crowd := 1;
    RETURN mine;
END
$$
