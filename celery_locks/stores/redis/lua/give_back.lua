-- Gives the permits of a token back. Returns 1 when it gave up a lease that had not passed its deadline, else 0; and
-- whether anybody stands in line. Needs records and spread, REPEAT, value and keep_value.
--
-- A repeat that finds no lease can't know whether its first copy gave it up: it returns 1, unless it was taken by force.
-- Where the lease displaced another one, that is put back; see displaced.

-- include expiry
-- include forget

-- A claim has displaced the lease that is released: `displaced` is what this one had displaced itself.
local function release_displaced(claim, displaced)
  -- include displaced
  redis.call('HDEL', LOCK, 'by ' .. token)
  local holder, ends, record
  if displaced then
    holder, ends, record = end_displacement(token, displaced)
  end
  if holder then -- that is what the claim has displaced now
    displace(claim, holder, record, ends)
  else
    redis.call('HDEL', LOCK, 'of ' .. claim)
  end
end

local function put_back(holder, ends, record, held)
  -- include marks
  local permits, fence = string.match(record, '^(%d+) (%d+)')
  redis.call('HSET', LOCK, holder, record, 'held', string.format('%.0f', held + permits))
  redis.call('ZADD', UNTIL, ends, holder)
  keep(last(UNTIL))
  list(fence, ends)
  keep_list()
end

local function give_back()
  local lined = redis.call('EXISTS', LINE) == 1
  local known = redis.call('HMGET', LOCK, token, 'held', 'of ' .. token, 'by ' .. token)
  if not known[1] then
    if known[4] then
      release_displaced(known[4], known[3])
      return 1, lined
    end
    return REPEAT and redis.call('EXISTS', LOCK .. ':replaced:' .. token) == 0 and 1 or 0, lined
  end
  local holder, holder_ends, record
  if known[3] then
    -- include displaced
    holder, holder_ends, record = end_displacement(token, known[3])
  end
  local back = holder and holder_ends - now > 0
  local ends = redis.call('ZSCORE', UNTIL, token) or '0'
  local deadline = tonumber(ends)
  redis.call('HDEL', LOCK, token)
  redis.call('ZREM', UNTIL, token)
  local permits, fence = string.match(known[1], '^(%d+) (%d+)')
  local left = (known[2] or 0) - permits -- a lone holder's release leaves no `held`, and holders of no permits may be there
  local mark = fence .. ' ' .. NAME
  local name = left == 0 and not lined and 'n' .. NAME or 's' .. mark
  redis.call('ZREM', PREFIX .. 'locks', 's' .. mark, 'u' .. ends .. ' ' .. mark, name)
  if left == 0 and not lined and not back and redis.call('EXISTS', UNTIL) == 0 then -- there may be holders of no permits, which only wait
    forget_holders()
  else
    redis.call('HSET', LOCK, 'held', string.format('%.0f', left))
    if deadline - now > FENCE_KEPT then -- a long lease that was released early
      keep(last(UNTIL) or now)
    end
  end
  if back then
    put_back(holder, holder_ends, record, left)
  end
  if deadline <= now then
    return 0, lined
  end
  if keep_value then
    redis.call('SET', LOCK .. ':value', value, 'PX', math.ceil(keep_value / 1000))
  end
  return 1, lined
end
