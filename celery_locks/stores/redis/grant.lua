-- Keeps what is written until the latest deadline, and the fence for longer.
local function keep(latest)
  redis.call('PEXPIREAT', UNTIL, math.ceil((latest + LINGER) / 1000))
  redis.call('PEXPIREAT', LOCK, math.ceil((latest + memory) / 1000))
end

-- include marks

-- Writes a holder's record; `fence` and `held` are what the lock has now. Returns the fencing token.
local function grant(holder, permits, owner, deadline, fence, held, limit)
  fence = math.max(tonumber(fence or 0) + 1, now)
  local record = string.format('%d %.0f %.0f %d ', permits, fence, now, limit) .. owner -- %s would end at a NUL
  redis.call('HSET', LOCK, 'fence', fence, 'held', held + permits, holder, record)
  redis.call('ZADD', UNTIL, 'GT', deadline, holder)
  list(now, fence, deadline)
  return fence
end
