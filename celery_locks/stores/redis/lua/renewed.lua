-- Prolongs a lease by `ttl`, if its deadline has not passed; never shortens it. Returns 'renewed', or why it can't be:
-- 'expired', 'replaced', 'force_released', 'stolen', 'deleted'. Needs LOCK, token, PREFIX, NAME and now, which may change between calls.

-- include marks
-- include record

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
    local before, permits, fence, rest, last_ttl = string.match(known[2], '^(%d+)( %d+ )(%d+)( %d+ %d+) ?(%d*)$')
    if before - now <= 0 then
      return 'expired'
    end
    -- Where more is left than the last ttl, the clock was set back.
    local deadline = math.max(math.min(before, now + (tonumber(last_ttl) or math.huge)), now + ttl)
    local ends = string.format('%.0f', deadline)
    local new_ttl = deadline == now + ttl and ttl or last_ttl
    redis.call('PEXPIREAT', LOCK, math.ceil((deadline + FENCE_KEPT) / 1000)) -- first, for a full server; see when_full
    redis.call('HSET', LOCK, 'terms', ends .. permits .. fence .. rest .. (new_ttl == '' and '' or ' ' .. new_ttl))
    relist(before, fence, ends)
    return 'renewed'
  end

  -- include records
  -- include spread

  local before = redis.call('ZSCORE', UNTIL, token) or '0'
  local deadline = tonumber(before)
  local record = deadline > now and redis.call('HGET', LOCK, token)
  if record then
    local last_ttl = string.match(record, '^%d+ %d+ %d+ %d+ t(%d+) ')
    deadline = math.max(math.min(deadline, now + (last_ttl or math.huge)), now + ttl)
    local fence, ends = string.match(record, '^%d+ (%d+)'), string.format('%.0f', deadline)
    local latest = math.max(deadline, redis.call('ZRANGE', UNTIL, -1, -1, 'WITHSCORES')[2])
    redis.call('PEXPIREAT', UNTIL, math.ceil((latest + LINGER) / 1000)) -- first, for a full server; see when_full
    redis.call('PEXPIREAT', LOCK, math.ceil((latest + FENCE_KEPT) / 1000))
    redis.call('ZADD', UNTIL, ends, token)
    if last_ttl ~= ttl and deadline == now + ttl then
      redis.call('HSET', LOCK, token, with_ttl(record, tonumber(ttl)))
    end
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

  local held = tidy() -- before the next line: it ends the claims whose deadline has passed
  if redis.call('HEXISTS', LOCK, 'by ' .. token) == 1 then
    return 'unreachable' -- a claim displaced it, which may yet put it back; see displaced
  end
  return held > 0 and 'stolen' or 'deleted'
end

-- include trouble

-- As `renewed`; 'unreachable' where there was an error, and the error, unless it is a record of a foreign type: that is
-- the trouble of this lock alone.
local function tried(ttl)
  local done, said = pcall(renewed, ttl)
  if done then
    return said
  end
  local text = text_of(said)
  return 'unreachable', not string.find(text, 'WRONGTYPE', 1, true) and text or nil
end
