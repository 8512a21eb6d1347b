-- Grants, if nobody holds the lock or waits for it. Needs permits, limit, deadline, REPEAT.
-- (Of numbers, %d is shorter for the server to write than %.0f, and wrong on 32 bits.)
local free = redis.call('HMGET', LOCK, 'held', 'fence', 'lined', 'void')
if free[4] or REPEAT then
  -- include late
end
-- A lock that was not held before, or was forgotten, does not know whether anybody waits.
local lined = free[3] or (not free[2] and redis.call('EXISTS', LOCK .. ':line') == 1)
if (free[1] or '0') == '0' and not lined and permits > 0 and permits <= limit then
  local fence, ends = math.max((free[2] or 0) + 1, now), string.format('%.0f', deadline)
  local since = time[1] .. string.sub('00000' .. time[2], -6) -- `now`, for less than a format costs
  local number = fence == now and since or string.format('%.0f', fence)
  -- (Of the arguments, since they are texts: to write a number costs as much as to ask for the time.)
  local terms = ends .. ' ' .. ARGV[5] .. ' ' .. number .. ' ' .. (fence == now and '0' or since) .. ' ' .. ARGV[4] .. ' ' .. ARGV[3]
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
  -- include marks
  list(number, ends)
  -- One in so many grants looks after the list: keeps it, and takes away what the dead left there, so that it can't grow.
  if now % 16 == 0 then
    keep_list()
    -- include unlist_expired
    unlist_expired(32)
  elseif not free[2] then -- maybe nobody has kept it so far
    keep_list()
  end
  return fence
end
