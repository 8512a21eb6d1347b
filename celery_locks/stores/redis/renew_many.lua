-- Prolongs leases of many locks, for less than as many scripts would cost the server and who reads their answers.
--
-- KEYS names of locks  ARGV their tokens, and after these the ttl of each
-- Returns {number, why, …} of those that can't be prolonged; see renewed

local LOCK, token, PREFIX, NAME
-- include clock

-- include renewed

local lost = {}
for i = 1, #KEYS do
  LOCK, token = KEYS[i], ARGV[i]
  PREFIX, NAME = string.match(LOCK, '^([^{]*)(.*)$')
  local said = renewed(ARGV[#KEYS + i])
  if said ~= 'renewed' then
    lost[#lost + 1] = i
    lost[#lost + 1] = said
  end
end
return lost
