-- How many permits are held now. Changes nothing.

-- include records
-- include held_now

return held_now()
