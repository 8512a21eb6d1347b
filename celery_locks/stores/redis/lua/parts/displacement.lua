-- Leases that a claim has displaced before a majority of servers granted it; see redlock/attempt.py. Needs LOCK.
--
-- Fields of the lock:
--   of <claim>   "holder deadline record" of the lease that the claim displaced
--   by <holder>  the claim that displaced the holder's lease
--
-- While the claim is not settled, its release restores the lease, and the holder may release the lease. A renewal of the
-- lease is answered by 'unreachable', since no one knows yet whether it is lost. If the process of the claim dies, the
-- fields end with the claim's ttl; see remove_holder. The displaced lease has passed its deadline by then.

-- Records that a claim displaces a holder's lease.
local function displace(claim, holder, record, ends)
  redis.call('HSET', LOCK, 'of ' .. claim, holder .. ' ' .. ends .. ' ' .. record, 'by ' .. holder, claim)
end

-- Removes both fields; `displaced` is the value of the first one. Returns the lease's holder, deadline and record, or nil
-- if the holder has released it.
local function end_displacement(claim, displaced)
  local holder, ends = string.match(displaced, '^(%S+) (%d+) ')
  local still = redis.call('HGET', LOCK, 'by ' .. holder) == claim
  redis.call('HDEL', LOCK, 'of ' .. claim, still and 'by ' .. holder or '')
  if still then
    return holder, ends, string.sub(displaced, #holder + #ends + 3) -- by position: an owner's name may contain a NUL
  end
end
