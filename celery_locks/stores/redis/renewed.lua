-- Prolongs a lease by `ttl`, if its deadline has not passed; never shortens it. Returns 'renewed', or why it can't be:
-- 'expired', 'replaced', 'stolen', 'deleted'. Needs LOCK, token, PREFIX, NAME and now, which may change between calls.

-- include marks

-- Moves a holder's deadline on the list, and adds what the list may have lost.
local function relist(before, fence, ends)
  local known = redis.call('ZREM', PREFIX .. 'locks', 'u' .. before .. ' ' .. fence .. ' ' .. NAME)
  list(fence, ends)
  if known == 0 or now % 16 == 0 then
    keep_list()
  end
end

local function renewed(ttl)
  local known = redis.call('HMGET', LOCK, 'sole', 'terms')
  if known[1] == token then
    local before, permits, fence, rest = string.match(known[2], '^(%d+)( %d+ )(%d+)(.*)$')
    if before - now <= 0 then
      return 'expired'
    end
    local deadline = math.max(before + 0, now + ttl)
    local ends = string.format('%.0f', deadline)
    redis.call('HSET', LOCK, 'terms', ends .. permits .. fence .. rest)
    relist(before, fence, ends)
    redis.call('PEXPIREAT', LOCK, math.ceil((deadline + FENCE_KEPT) / 1000))
    return 'renewed'
  end

  -- include records
  -- include spread

  local before = redis.call('ZSCORE', UNTIL, token) or '0'
  local deadline = tonumber(before)
  local record = deadline > now and redis.call('HGET', LOCK, token)
  if record then
    local fence, ends = string.match(record, '^%d+ (%d+)'), string.format('%.0f', math.max(deadline, now + ttl))
    redis.call('ZADD', UNTIL, ends, token)
    relist(before, fence, ends)
    local latest = redis.call('ZRANGE', UNTIL, -1, -1, 'WITHSCORES')[2]
    redis.call('PEXPIREAT', UNTIL, math.ceil((latest + LINGER) / 1000))
    redis.call('PEXPIREAT', LOCK, math.ceil((latest + FENCE_KEPT) / 1000))
    return 'renewed'
  end
  if deadline > 0 then
    return 'expired'
  end
  if redis.call('EXISTS', LOCK .. ':replaced:' .. token) == 1 then
    return 'replaced'
  end

  -- include library

  return tidy() > 0 and 'stolen' or 'deleted'
end
