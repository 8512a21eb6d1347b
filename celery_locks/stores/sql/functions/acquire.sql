-- Acquires a lock, for a claim that neither adopts nor replaces a lease and belongs to no task.
--
-- key, claimant, called: the lock, the owner token, the owner's name. ttl: microseconds. room: the lock's limit.
-- wanted: permits. line_up: microseconds to stand in line if refused; NULL to stay out of the line.
-- longest: the most waiters in line; 0 for any number. patience: see `celery_locks_open`.
-- channel: see `celery_locks_notify_next`. again: whether the request is a repeat, because the reply to the first one was lost.
--
-- Returns one row with the fencing token if it is granted. Otherwise it returns one row for each holder, or one row without
-- a holder: the lock's moment, when another try may succeed, the position in line, whether the line is full, the holder.
CREATE OR REPLACE FUNCTION celery_locks_acquire(
    key text, claimant text, called text, ttl bigint, room bigint, wanted bigint, line_up bigint, longest bigint,
    patience bigint, channel text, again boolean
) RETURNS TABLE (
    granted bigint, moment bigint, again_at bigint, place bigint, is_full boolean,
    owner text, fencing_token bigint, permits bigint, since bigint, deadline bigint, token text, most bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    mine celery_locks_lock;
    setting text;
    used bigint;
    is_new boolean := false;
    its_number bigint;
    head text;
    head_wants bigint;
    head_room bigint;
    head_until bigint;
    needed_until bigint;
BEGIN
    -- A free lock without waiters takes one guarded statement. If that waits for the row, its clock reading is older than
    -- the row. Then the lease is shorter, and so is the lease that the client believes in.
    setting := set_config('lock_timeout', patience::text, true);
    UPDATE celery_locks_lock l
    SET touched = greatest(l.touched, c.now), fence = greatest(l.fence + 1, l.touched, c.now),
        token = claimant, owner = called, permits = wanted, most = room, since = greatest(l.touched, c.now),
        deadline = greatest(l.touched, c.now) + ttl, forget_at = greatest(l.forget_at, FORGET(c.now + ttl))
    FROM (SELECT CLOCK AS now) c
    WHERE l.name = key AND l.crowd = 0 AND l.token = '' AND wanted <= room AND (again OR l.ended <> claimant)
        AND l.touched <= c.now + SET_BACK
    RETURNING l.fence INTO granted;
    IF FOUND THEN
        IF TOO_LATE(patience) THEN
            RAISE lock_not_available USING MESSAGE = 'other transactions held the row of the lock for too long';
        END IF;
        RETURN NEXT;
        RETURN;
    END IF;
    mine := celery_locks_open(key, patience);
    moment := mine.touched;
    is_full := false;
    IF mine.crowd = 0 THEN  -- no one waits, and the only holder is in the row
        IF mine.token = claimant AND mine.deadline > moment THEN  -- the same acquire once more
            granted := mine.fence;
            UPDATE celery_locks_lock SET touched = moment, deadline = greatest(mine.deadline, moment + ttl),
                forget_at = greatest(mine.forget_at, FORGET(moment + ttl))
            WHERE name = key;
        ELSIF mine.deadline <= moment AND wanted <= room AND (again OR mine.ended <> claimant) THEN
            granted := greatest(mine.fence + 1, moment);
            IF mine.token NOT IN ('', claimant) THEN
                PERFORM celery_locks_move_holder(mine);
            END IF;
            UPDATE celery_locks_lock SET touched = moment, fence = granted, token = claimant, owner = called,
                permits = wanted, most = room, since = moment, deadline = moment + ttl, crowd = 0,
                forget_at = greatest(mine.forget_at, FORGET(moment + ttl))
            WHERE name = key;
        ELSIF line_up IS NULL AND mine.deadline > moment AND mine.permits + wanted > room THEN  -- nothing changes
            again_at := mine.deadline;
            owner := mine.owner;
            fencing_token := mine.fence;
            permits := mine.permits;
            since := mine.since;
            deadline := mine.deadline;
            token := mine.token;
            most := mine.most;
        END IF;
        IF granted IS NOT NULL OR again_at IS NOT NULL THEN
            RETURN NEXT;
            RETURN;
        END IF;
        mine := celery_locks_move_holder(mine);
    END IF;
    SELECT coalesce(sum(h.permits), 0), max(h.fencing_token) FILTER (WHERE h.token = claimant) INTO used, granted
    FROM celery_locks_holder h WHERE h.name = key AND h.deadline > moment;
    IF granted IS NOT NULL THEN  -- the same acquire once more
        UPDATE celery_locks_holder h SET deadline = greatest(h.deadline, moment + ttl)
        WHERE h.name = key AND h.token = claimant;
    ELSIF again OR mine.ended <> claimant THEN  -- otherwise the request arrived late, after its lease had ended
        SELECT w.token, w.permits, w.most, w.deadline INTO head, head_wants, head_room, head_until
        FROM celery_locks_waiter w WHERE w.name = key AND w.deadline > moment ORDER BY w.id LIMIT 1;
        IF used + wanted <= room AND (head IS NULL OR head = claimant) THEN
            granted := greatest(mine.fence + 1, moment);
            -- An expired row of the same token may still exist.
            INSERT INTO celery_locks_holder AS h (name, token, owner, permits, most, fencing_token, since, deadline)
            VALUES (key, claimant, called, wanted, room, granted, moment, moment + ttl)
            ON CONFLICT (name, token) DO UPDATE SET owner = called, permits = wanted, most = room,
                fencing_token = granted, since = moment, deadline = moment + ttl;
        ELSIF line_up IS NOT NULL THEN
            UPDATE celery_locks_waiter w
            SET permits = wanted, most = room, deadline = greatest(w.deadline, moment + line_up)
            WHERE w.name = key AND w.token = claimant AND w.deadline > moment;
            is_new := NOT FOUND;
            is_full := is_new AND longest > 0 AND longest <= (
                SELECT count(*) FROM (
                    SELECT FROM celery_locks_waiter w WHERE w.name = key AND w.deadline > moment LIMIT longest
                ) w
            );
            IF is_new AND NOT is_full THEN
                -- The end of the line, also behind tickets that are not in line now. An expired place is lost.
                SELECT greatest(moment, coalesce(max(w.id), 0) + 1) INTO its_number
                FROM celery_locks_waiter w WHERE w.name = key;
                SELECT greatest(its_number, coalesce(max(t.number), 0) + 1) INTO its_number
                FROM celery_locks_ticket t WHERE t.name = key;
                INSERT INTO celery_locks_waiter (id, name, token, permits, most, deadline)
                VALUES (its_number, key, claimant, wanted, room, moment + line_up)
                ON CONFLICT (name, token) DO UPDATE
                SET id = excluded.id, permits = wanted, most = room, deadline = excluded.deadline;
            END IF;
        END IF;
    END IF;
    -- The sweeper need not check this row while the lease is held.
    needed_until := CASE WHEN granted IS NULL THEN moment ELSE moment + ttl END;
    UPDATE celery_locks_lock l
    SET touched = moment, fence = greatest(l.fence, granted), forget_at = greatest(l.forget_at, FORGET(needed_until)),
        crowd = CROWDED(key, moment)
    WHERE l.name = key;
    IF granted IS NOT NULL THEN
        IF head IS NOT NULL THEN  -- the next waiter may find permits, too
            DELETE FROM celery_locks_waiter w WHERE w.name = key AND w.token = claimant;
            PERFORM celery_locks_notify_next(mine, channel);
        END IF;
        RETURN NEXT;
        RETURN;
    END IF;
    IF head <> claimant AND used + head_wants <= head_room THEN
        PERFORM celery_locks_notify_next(mine, channel);
    END IF;
    IF NOT is_new THEN  -- a crash may lose this confirmation of a place; the waiter confirms it again
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    SELECT w.id INTO its_number FROM celery_locks_waiter w
    WHERE w.name = key AND w.token = claimant AND w.deadline > moment;
    IF FOUND THEN
        SELECT w.deadline INTO again_at FROM celery_locks_waiter w
        WHERE w.name = key AND w.deadline > moment AND w.id < its_number ORDER BY w.id DESC LIMIT 1;
        SELECT count(*) INTO place FROM (
            SELECT FROM celery_locks_waiter w
            WHERE w.name = key AND w.deadline > moment AND w.id < its_number ORDER BY w.id DESC LIMIT MOST_BEFORE
        ) w;
    END IF;
    again_at := coalesce(
        again_at,
        (SELECT min(h.deadline) FROM celery_locks_holder h WHERE h.name = key AND h.deadline > moment),
        head_until,
        moment + ttl
    );
    RETURN QUERY
    SELECT granted, moment, again_at, place, is_full,
        h.owner, h.fencing_token, h.permits, h.since, h.deadline, h.token, h.most
    FROM (VALUES (1)) AS always LEFT JOIN (
        SELECT * FROM celery_locks_holder WHERE name = key AND deadline > moment ORDER BY fencing_token LIMIT MOST_HOLDERS
    ) h ON true ORDER BY h.fencing_token;
END
$$
