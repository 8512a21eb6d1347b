-- Prolongs a lease by `ttl`, if its deadline has not passed; never shortens it. Returns 'renewed', or why it can't be:
-- 'expired', 'replaced', 'force_released', 'stolen', 'deleted'. Needs LOCK, token, PREFIX, NAME and now, which may change between calls.

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
    redis.call('PEXPIREAT', LOCK, math.ceil((deadline + FENCE_KEPT) / 1000)) -- first, for a full server; see when_full
    redis.call('HSET', LOCK, 'terms', ends .. permits .. fence .. rest)
    relist(before, fence, ends)
    return 'renewed'
  end

  -- include records
  -- include spread

  local before = redis.call('ZSCORE', UNTIL, token) or '0'
  local deadline = tonumber(before)
  local record = deadline > now and redis.call('HGET', LOCK, token)
  if record then
    deadline = math.max(deadline, now + ttl)
    local fence, ends = string.match(record, '^%d+ (%d+)'), string.format('%.0f', deadline)
    local latest = math.max(deadline, redis.call('ZRANGE', UNTIL, -1, -1, 'WITHSCORES')[2])
    redis.call('PEXPIREAT', UNTIL, math.ceil((latest + LINGER) / 1000)) -- first, for a full server; see when_full
    redis.call('PEXPIREAT', LOCK, math.ceil((latest + FENCE_KEPT) / 1000))
    redis.call('ZADD', UNTIL, ends, token)
    relist(before, fence, ends)
    return 'renewed'
  end
  if deadline > 0 then
    return 'expired'
  end
  local why = redis.call('GET', LOCK .. ':replaced:' .. token)
  if why then
    return why == 'force_released' and why or 'replaced' -- an older release wrote 1
  end

  -- include library

  return tidy() > 0 and 'stolen' or 'deleted'
end
