-- Writes a holder's record. `fence` and `held` are the lock's fields before. Returns the fencing token. Needs lock_keys.

-- include key_expiry
-- include lock_list

local function grant(holder, permits, owner, deadline, fence, held, limit)
  local forgotten = not fence
  fence = math.max(tonumber(fence or 0) + 1, now)
  local number, ends = string.format('%.0f', fence), string.format('%.0f', deadline)
  -- %s would end at a NUL.
  local terms = string.format('%.0f %.0f %.0f %.0f t%.0f ', permits, fence, now, limit, deadline - now)
  redis.call('HSET', LOCK, 'fence', number, 'held', string.format('%.0f', held + permits), holder, terms .. owner)
  if forgotten and redis.call('EXISTS', LINE) == 1 then
    redis.call('HSET', LOCK, 'lined', 1)
  end
  redis.call('ZADD', UNTIL, 'GT', ends, holder)
  list_holder(number, ends)
  set_list_expiry()
  return fence
end
