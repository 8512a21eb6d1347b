-- Leases that a claim has displaced although a majority of servers may yet refuse it; see redlock/attempt.py. Needs
-- LOCK.
--
-- Fields of the lock: `of <claim>`   "holder deadline record" of the lease that the claim displaced
--                     `by <holder>`  the claim that displaced it
-- Until the claim is settled, its release puts the lease back, the holder may release it, and a renewal of it is answered
-- by "unreachable": whether the holder lost it is not known.

-- Records that a claim displaces a holder's lease.
local function displace(claim, holder, record, ends)
  redis.call('HSET', LOCK, 'of ' .. claim, holder .. ' ' .. ends .. ' ' .. record, 'by ' .. holder, claim)
end

-- Removes both marks of a displaced lease; `displaced` is the claim's. Returns the lease's holder, deadline and record,
-- or nil if the holder has released it.
local function end_displacement(claim, displaced)
  local holder, ends = string.match(displaced, '^(%S+) (%d+) ')
  local still = redis.call('HGET', LOCK, 'by ' .. holder) == claim
  redis.call('HDEL', LOCK, 'of ' .. claim, still and 'by ' .. holder or '')
  if still then
    return holder, ends, string.sub(displaced, #holder + #ends + 3) -- by place: there may be a NUL in the owner's name
  end
end
