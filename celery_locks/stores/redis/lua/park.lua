-- Parks the ticket of a message that has arrived at a worker, if it can't run now. Acquires no permits.
--
--   KEYS and ARGV: see enter
--
-- Returns 0 if nothing was changed; or what `enter` returns: {'parked', …}, {'refused', …}, {'full', …}.
--
-- Repeats: a known ticket is left alone. A copy that comes after a later one is refused; see refuse_late_copy.

-- include prelude

local REPEAT = ARGV[#ARGV] == 'repeat'
if REPEAT or redis.call('HEXISTS', LOCK, 'void') == 1 then
  -- include refuse_late_copy
end

-- include lock_keys
-- include spread_sole_holder
-- include grant
-- include library
-- include tickets

local limit, permits = tonumber(ARGV[4]), tonumber(ARGV[5])
local id, me, most = ARGV[7], TICKET .. ARGV[7], tonumber(ARGV[12])
local held, head = remove_expired()
if (not head and permits <= limit - held) or redis.call('EXISTS', ticket_key(id)) == 1 then
  return 0
end
local state, number, mine = nil, nil, {}

-- include park_ticket

return park_or_refuse()
