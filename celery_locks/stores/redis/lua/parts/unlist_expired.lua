-- Removes at most `most` expired holders from the list, and their locks if these have neither other holders nor waiters.
-- Needs PREFIX and now.

local function unlist_expired(most)
  local function held(name)
    local known = redis.call('HMGET', PREFIX .. name, 'sole', 'terms')
    if known[1] and known[1] ~= '' and string.match(known[2], '^%d+') - now > 0 then
      return true
    end
    return redis.call('ZCOUNT', PREFIX .. name .. ':until', string.format('(%.0f', now), '+inf') > 0
  end
  -- Returns false for a lock with a key of another type, too.
  local function is_held(name)
    local readable, holds = pcall(held, name)
    return readable and holds
  end
  local before = string.format('(u%.0f', now)
  for _, ended in ipairs(redis.call('ZRANGEBYLEX', PREFIX .. 'locks', '[u', before, 'LIMIT', 0, most)) do
    local mark, name = string.match(ended, '^u%d+ (%d+ (.*))$')
    redis.call('ZREM', PREFIX .. 'locks', ended, 's' .. mark)
    if not is_held(name) and redis.call('EXISTS', PREFIX .. name .. ':line') == 0 then
      redis.call('ZREM', PREFIX .. 'locks', 'n' .. name)
    end
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', PREFIX .. 'lines', '-inf', now, 'LIMIT', 0, most)) do
    redis.call('ZREM', PREFIX .. 'lines', name)
    if not is_held(name) then
      redis.call('ZREM', PREFIX .. 'locks', 'n' .. name)
    end
  end
end
