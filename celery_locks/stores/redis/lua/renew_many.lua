-- Renews leases of many locks. For the server and the client this costs less than as many calls of `renew`.
--
--   KEYS  the locks
--   ARGV  their owner tokens, and after these the ttl of each
--
-- Returns {number, reason, …} of the leases that can't be renewed; see renew_lease. If each lock had an error, the server
-- has one, since it may be a replica by now: then that error is returned.
--
-- Repeats: see renew.

local LOCK, token, PREFIX, NAME
-- include clock

-- include renew_lease

local lost, failed, problem = {}, 0, ''
for i = 1, #KEYS do
  LOCK, token = KEYS[i], ARGV[i]
  PREFIX, NAME = string.match(LOCK, '^([^{]*)(.*)$')
  local result, error = try_renew(ARGV[#KEYS + i])
  if error then
    failed, problem = failed + 1, error
  end
  if result ~= 'renewed' then
    lost[#lost + 1] = i
    lost[#lost + 1] = result
  end
end
if failed == #KEYS then
  return error_reply(problem)
end
return lost
