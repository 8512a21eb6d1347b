-- Prolongs leases of many locks, for less than as many scripts would cost the server and who reads their answers.
--
-- KEYS names of locks  ARGV their tokens, and after these the ttl of each
-- Returns {number, why, …} of those that can't be prolonged; see renewed. An error of all is the server's, which may be a
-- replica by now.

local LOCK, token, PREFIX, NAME
-- include clock

-- include renewed

local lost, failed, problem = {}, 0, ''
for i = 1, #KEYS do
  LOCK, token = KEYS[i], ARGV[i]
  PREFIX, NAME = string.match(LOCK, '^([^{]*)(.*)$')
  local said, error = tried(ARGV[#KEYS + i])
  if error then
    failed, problem = failed + 1, error
  end
  if said ~= 'renewed' then
    lost[#lost + 1] = i
    lost[#lost + 1] = said
  end
end
if failed == #KEYS then
  return error_of(problem)
end
return lost
