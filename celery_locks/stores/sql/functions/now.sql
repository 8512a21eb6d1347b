-- Returns the time of the store's clock.
--
-- seen: a past moment of the store's clock. It is an error if the clock is behind it by more than SET_BACK microseconds:
-- the server's clock was set back, and the client calls `raise_clock` of clock.py first.
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
