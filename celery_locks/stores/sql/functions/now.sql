-- The store's moment. It goes on where the server's clock was set back: all locks have the same clock.
--
-- seen: a moment of the store's clock that has passed.
CREATE OR REPLACE FUNCTION celery_locks_now(seen bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    moment bigint := CLOCK;
BEGIN
    IF seen > moment + SET_BACK THEN
        UPDATE celery_locks_meta SET ahead = greatest(ahead, seen - SERVER_TIME);
        moment := seen;
    END IF;
    RETURN moment;
END
$$
