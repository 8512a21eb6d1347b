-- The message of a call was sent on: its permits are kept for longer now.
--
-- ARGV[3] ticket  ARGV[4] for how long

-- include records
-- include spread
-- include grant
-- include library
-- include tickets

tidy() -- what has ended is not prolonged
local id, me, deadline = ARGV[3], TICKET .. ARGV[3], now + ARGV[4]
local state, record = redis.call('HGET', ticket(id), 'state'), redis.call('HGET', LOCK, me)
if state == 'called' and record then
  prolong(me, record, deadline)
  look_at(id, deadline)
  index()
elseif state == 'out' then
  look_at(id, deadline)
  index()
end
return 1
