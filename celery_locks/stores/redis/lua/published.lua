-- The message of a dispatch was published: its permits are kept for longer now.
--
-- ARGV[3] ticket  ARGV[4] for how long

-- include records
-- include spread
-- include grant
-- include library
-- include tickets

tidy() -- what has expired is not extended
local id, me, deadline = ARGV[3], TICKET .. ARGV[3], now + ARGV[4]
local known, record = redis.call('HMGET', ticket(id), 'state', 'broker'), redis.call('HGET', LOCK, me)
if is_dispatched(known[1]) and record then
  prolong(me, record, deadline)
  look_at(id, known[2], deadline)
  index()
elseif known[1] == 'out' then
  -- include when_full
  look_at(id, known[2], deadline)
  index()
end
return 1
