-- A majority has granted a claim: the lease that it displaced here is not put back any more.
--
-- ARGV[3] the holder whose lease it adopts; to any other one the reason "replaced" is left, see take_away

-- include displaced

local displaced = redis.call('HGET', LOCK, 'of ' .. token)
if not displaced then
  return 0
end
local holder, ends = end_displacement(token, displaced)
if holder and holder ~= ARGV[3] then
  redis.call('SET', LOCK .. ':replaced:' .. holder, 'replaced', 'PX', math.ceil((math.max(ends - now, 0) + TAKEN_KNOWN) / 1000))
end
return 1
