-- The store's moment.
--
-- seen: a moment of the store's clock that has passed. An error if the clock is behind it by more than readings of one clock
-- can be: the server's clock was set back, and `raise_clock` in clock.py comes first.
CREATE OR REPLACE FUNCTION celery_locks_now(seen bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    moment bigint := CLOCK;
BEGIN
    IF seen > moment + SET_BACK THEN
        RAISE EXCEPTION 'the clock of the server was set back' USING ERRCODE = 'SET_CODE';
    END IF;
    RETURN moment;
END
$$
