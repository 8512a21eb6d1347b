-- Releases the lease of a token that is not the sole holder.
-- Needs lock_keys, spread_sole_holder, REPEAT, value and keep_value.
--
-- release_lease returns 1 if it released a lease that had not passed its deadline, otherwise 0; and whether there is a line.
-- A repeat that finds no lease can't know whether its first copy released it: it returns 1, unless the lease was taken by
-- force. If the lease had displaced another one, that is restored; see displacement.

-- include key_expiry
-- include forget_holders

-- Releases a lease that `claim` has displaced. `displaced` is the lease that this one had displaced itself: now the claim
-- has displaced that.
local function release_displaced_claim(claim, displaced)
  -- include displacement
  redis.call('HDEL', LOCK, 'by ' .. token)
  local holder, ends, record
  if displaced then
    holder, ends, record = end_displacement(token, displaced)
  end
  if holder then
    displace(claim, holder, record, ends)
  else
    redis.call('HDEL', LOCK, 'of ' .. claim)
  end
end

local function restore_lease(holder, ends, record, held)
  -- include lock_list
  local permits, fence = string.match(record, '^(%d+) (%d+)')
  redis.call('HSET', LOCK, holder, record, 'held', string.format('%.0f', held + permits))
  redis.call('ZADD', UNTIL, ends, holder)
  set_expiry(last_score(UNTIL))
  list_holder(fence, ends)
  set_list_expiry()
end

local function release_lease()
  local lined = redis.call('EXISTS', LINE) == 1
  local known = redis.call('HMGET', LOCK, token, 'held', 'of ' .. token, 'by ' .. token)
  if not known[1] then
    if known[4] then
      release_displaced_claim(known[4], known[3])
      return 1, lined
    end
    return REPEAT and redis.call('EXISTS', LOCK .. ':replaced:' .. token) == 0 and 1 or 0, lined
  end
  local holder, holder_ends, record
  if known[3] then
    -- include displacement
    holder, holder_ends, record = end_displacement(token, known[3])
  end
  local back = holder and holder_ends - now > 0
  local ends = redis.call('ZSCORE', UNTIL, token) or '0'
  local deadline = tonumber(ends)
  redis.call('HDEL', LOCK, token)
  redis.call('ZREM', UNTIL, token)
  local permits, fence = string.match(known[1], '^(%d+) (%d+)')
  local left = (known[2] or 0) - permits -- `held` is missing after the release of a sole holder
  local mark = fence .. ' ' .. NAME
  local name = left == 0 and not lined and 'n' .. NAME or 's' .. mark
  redis.call('ZREM', PREFIX .. 'locks', 's' .. mark, 'u' .. ends .. ' ' .. mark, name)
  if left == 0 and not lined and not back and redis.call('EXISTS', UNTIL) == 0 then -- a holder may have 0 permits
    forget_holders()
  else
    redis.call('HSET', LOCK, 'held', string.format('%.0f', left))
    if deadline - now > FENCE_KEPT then -- a long lease that was released early
      set_expiry(last_score(UNTIL) or now)
    end
  end
  if back then
    restore_lease(holder, holder_ends, record, left)
  end
  if deadline <= now then
    return 0, lined
  end
  if keep_value then
    redis.call('SET', LOCK .. ':value', value, 'PX', math.ceil(keep_value / 1000))
  end
  return 1, lined
end
