-- Extends a lease to `ttl` from now, if its deadline has not passed; never shortens it. Needs LOCK, token, PREFIX, NAME and
-- now, which may change between calls.
--
-- Returns 'renewed', or why the lease can't be renewed: 'expired', 'replaced', 'force_released', 'stolen', 'deleted'; or
-- 'unreachable' if that is not known.

-- include lock_list
-- include holder_record

-- Moves a holder's deadline in the list, and adds entries that the list may have lost.
local function relist_holder(before, fence, ends)
  local known = redis.call('ZREM', PREFIX .. 'locks', 'u' .. before .. ' ' .. fence .. ' ' .. NAME)
  list_holder(fence, ends)
  if known == 0 or now % 16 == 0 then
    set_list_expiry()
  end
end

local function renew_lease(ttl)
  local known = redis.call('HMGET', LOCK, 'sole', 'terms')
  if known[1] == token then
    local before, permits, fence, rest, last_ttl = string.match(known[2], '^(%d+)( %d+ )(%d+)( %d+ %d+) ?(%d*)$')
    if before - now <= 0 then
      return 'expired'
    end
    -- If more is left than the last ttl, the clock was set back.
    local deadline = math.max(math.min(before, now + (tonumber(last_ttl) or math.huge)), now + ttl)
    local ends = string.format('%.0f', deadline)
    local new_ttl = deadline == now + ttl and ttl or last_ttl
    redis.call('PEXPIREAT', LOCK, math.ceil((deadline + FENCE_KEPT) / 1000)) -- first, for a full server; see first_write
    redis.call('HSET', LOCK, 'terms', ends .. permits .. fence .. rest .. (new_ttl == '' and '' or ' ' .. new_ttl))
    relist_holder(before, fence, ends)
    return 'renewed'
  end

  -- include lock_keys
  -- include spread_sole_holder

  local before = redis.call('ZSCORE', UNTIL, token) or '0'
  local deadline = tonumber(before)
  local record = deadline > now and redis.call('HGET', LOCK, token)
  if record then
    local last_ttl = string.match(record, '^%d+ %d+ %d+ %d+ t(%d+) ')
    deadline = math.max(math.min(deadline, now + (last_ttl or math.huge)), now + ttl)
    local fence, ends = string.match(record, '^%d+ (%d+)'), string.format('%.0f', deadline)
    local latest = math.max(deadline, redis.call('ZRANGE', UNTIL, -1, -1, 'WITHSCORES')[2])
    redis.call('PEXPIREAT', UNTIL, math.ceil((latest + LINGER) / 1000)) -- first, for a full server; see first_write
    redis.call('PEXPIREAT', LOCK, math.ceil((latest + FENCE_KEPT) / 1000))
    redis.call('ZADD', UNTIL, ends, token)
    if last_ttl ~= ttl and deadline == now + ttl then
      redis.call('HSET', LOCK, token, with_ttl(record, tonumber(ttl)))
    end
    relist_holder(before, fence, ends)
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

  local held = remove_expired() -- first, since it also ends claims that have expired; see displacement
  if redis.call('HEXISTS', LOCK, 'by ' .. token) == 1 then
    return 'unreachable' -- a claim displaced the lease and may restore it; see displacement
  end
  return held > 0 and 'stolen' or 'deleted'
end

-- include errors

-- Returns what renew_lease returns; after an error 'unreachable' and the error's text. A key of another type is an error of
-- this lock alone, so it has no text.
local function try_renew(ttl)
  local done, result = pcall(renew_lease, ttl)
  if done then
    return result
  end
  local text = error_text(result)
  return 'unreachable', not string.find(text, 'WRONGTYPE', 1, true) and text or nil
end
