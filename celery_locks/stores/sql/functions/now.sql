-- The store's moment. It goes on where the server's clock was set back: all locks have the same clock.
--
-- seen: a moment of the store's clock that has passed.
CREATE OR REPLACE FUNCTION celery_locks_now(seen bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    moment bigint := CLOCK;
BEGIN
    IF seen > moment + SET_BACK THEN
        UPDATE celery_locks_meta SET ahead = seen - SERVER_TIME WHERE ahead < seen - SERVER_TIME - SET_BACK;
        IF FOUND THEN  -- what was acquired by the clock that was set back lasts as long as it should
            UPDATE celery_locks_holder SET deadline = deadline + (seen - moment) WHERE since <= moment AND deadline > moment;
        END IF;
        moment := seen;
    END IF;
    RETURN moment;
END
$$
