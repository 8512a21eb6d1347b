-- Keeps the permits of a dispatched ticket for longer: its message was published.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  ticket
--   ARGV[4]  for how long
--
-- Repeats: the permits are kept from now on for the same time.

-- include prelude

-- include lock_keys
-- include spread_sole_holder
-- include grant
-- include library
-- include tickets

remove_expired() -- an expired lease is not extended
local id, me, deadline = ARGV[3], TICKET .. ARGV[3], now + ARGV[4]
local known, record = redis.call('HMGET', ticket_key(id), 'state', 'broker'), redis.call('HGET', LOCK, me)
if is_dispatched(known[1]) and record then
  extend(me, record, deadline)
  set_due(id, known[2], deadline)
  update_due()
elseif known[1] == 'out' then
  -- include first_write
  set_due(id, known[2], deadline)
  update_due()
end
return 1
