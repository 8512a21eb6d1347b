-- Ends the lease that a claim has displaced: a majority has granted the claim, so the lease is not restored any more.
--
--   KEYS[1]  the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]  the holder whose lease the claim adopts. Any other displaced holder gets the reason 'replaced'; see take_by_force.
--
-- Returns 1 if the claim had displaced a lease, otherwise 0.
--
-- Repeats: a second copy finds no displaced lease.

-- include prelude

-- include displacement

local displaced = redis.call('HGET', LOCK, 'of ' .. token)
if not displaced then
  return 0
end
local holder, ends = end_displacement(token, displaced)
if holder and holder ~= ARGV[3] then
  local kept = math.ceil((math.max(ends - now, 0) + TAKEN_KNOWN) / 1000)
  redis.call('SET', LOCK .. ':replaced:' .. holder, 'replaced', 'PX', kept)
end
return 1
