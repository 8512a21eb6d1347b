-- Grants a claim and ends the script, if the lock has neither a holder nor a waiter: the path of most calls.
-- Needs permits, limit, deadline and REPEAT; ARGV as in acquire. Leaves `free`, the fields that it read.
-- A number costs less as %d than as %.0f, but is wrong on 32 bits.

local free = redis.call('HMGET', LOCK, 'held', 'fence', 'lined', 'void')
if free[4] or REPEAT then
  -- include refuse_late_copy
end
-- The field `lined` is missing too if the lock has no record of its last holder.
local lined = free[3] or (not free[2] and redis.call('EXISTS', LOCK .. ':line') == 1)
if (free[1] or '0') == '0' and not lined and permits > 0 and permits <= limit then
  local fence, ends = math.max((free[2] or 0) + 1, now), string.format('%.0f', deadline)
  local since = time[1] .. string.sub('00000' .. time[2], -6) -- `now`, for less time than string.format
  local number = fence == now and since or string.format('%.0f', fence)
  -- The arguments are texts already: to convert a number takes as long as a call of TIME.
  local terms = ends .. ' ' .. ARGV[5] .. ' ' .. number .. ' ' .. (fence == now and '0' or since)
    .. ' ' .. ARGV[4] .. ' ' .. ARGV[3]
  local owner = ARGV[6]
  if #owner <= 64 then
    redis.call('HSET', LOCK, 'fence', number, 'held', ARGV[5], 'sole', token, 'terms', terms, 'owner', owner)
  elseif #owner <= 128 then -- in parts; see prelude
    redis.call('HSET', LOCK, 'fence', number, 'held', ARGV[5], 'sole', token, 'terms', terms,
      'owner', string.sub(owner, 1, 64), 'owner2', string.sub(owner, 65))
  else
    redis.call('HSET', LOCK, 'fence', number, 'held', ARGV[5], 'sole', token, 'terms', terms,
      'owner', string.sub(owner, 1, 64), 'owner2', string.sub(owner, 65, 128), 'owner3', string.sub(owner, 129))
  end
  redis.call('PEXPIREAT', LOCK, math.ceil((deadline + FENCE_KEPT) / 1000))
  -- include lock_list
  list_holder(number, ends)
  -- One of 16 grants maintains the list: it extends its expiry, and removes entries of dead processes.
  if now % 16 == 0 then
    set_list_expiry()
    -- include unlist_expired
    unlist_expired(32)
  elseif not free[2] then -- this may be the first entry of the list
    set_list_expiry()
  end
  return fence
end
