-- Leases that a claim has displaced although a majority of servers may yet refuse it; see redlock.py. Needs LOCK, token
-- and now.
--
-- Fields of the lock: `of <claim>`   "holder deadline record" of the lease that the claim displaced
--                     `by <holder>`  the claim that displaced it
-- Until the claim is settled, its release puts the lease back, the holder may release it, and a renewal of it is answered
-- by "unreachable": whether the holder lost it is not known.

-- Has the claim displace a holder's lease.
local function displace(holder, record, ends)
  redis.call('HSET', LOCK, 'of ' .. token, holder .. ' ' .. ends .. ' ' .. record, 'by ' .. holder, token)
end

-- Ends that the claim has displaced a lease; `displaced` is what it has of it. Returns the lease's holder, deadline and
-- record, or nil where the holder has released it.
local function displaced_no_more(displaced)
  local holder, ends = string.match(displaced, '^(%S+) (%d+) ')
  local still = redis.call('HGET', LOCK, 'by ' .. holder) == token
  redis.call('HDEL', LOCK, 'of ' .. token, still and 'by ' .. holder or '')
  if still then
    return holder, ends, string.sub(displaced, #holder + #ends + 3) -- by place: there may be a NUL in the owner's name
  end
end
