-- Keeps what is written until the latest deadline, and the fence for longer.
local function keep(latest)
  redis.call('PEXPIREAT', UNTIL, math.ceil((latest + LINGER) / 1000))
  redis.call('PEXPIREAT', LOCK, math.ceil((latest + FENCE_KEPT) / 1000))
end

-- include marks

-- Writes a holder's record; `fence` and `held` are what the lock has now. Returns the fencing token. Needs records.
local function grant(holder, permits, owner, deadline, fence, held, limit)
  local forgotten = not fence
  fence = math.max(tonumber(fence or 0) + 1, now)
  local number, ends = string.format('%.0f', fence), string.format('%.0f', deadline)
  local since = fence == now and number or string.format('%.0f', now)
  local record = permits .. ' ' .. number .. ' ' .. since .. ' ' .. limit .. ' ' .. owner -- %s would end at a NUL
  redis.call('HSET', LOCK, 'fence', fence, 'held', held + permits, holder, record)
  if forgotten and redis.call('EXISTS', LINE) == 1 then
    redis.call('HSET', LOCK, 'lined', 1)
  end
  redis.call('ZADD', UNTIL, 'GT', ends, holder)
  list(number, ends)
  keep_list()
  return fence
end
