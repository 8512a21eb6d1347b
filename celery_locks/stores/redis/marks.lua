-- The list of what is held, over all locks; see list.lua.

-- The rest of a holder's marks: the same in both, so that from the one the other can be told.
local function mark(since, fence)
  return string.format('%017.0f%017.0f', since, fence) .. LOCK
end

local function until_mark(deadline, marked)
  return string.format('u%017.0f', math.min(deadline, FOREVER)) .. marked
end

-- Puts a holder on the list.
local function list(since, fence, deadline)
  local marked = mark(since, fence)
  redis.call('ZADD', PREFIX .. 'locks', 0, 'n' .. LOCK, 0, 's' .. marked, 0, until_mark(deadline, marked))
  redis.call('PEXPIRE', PREFIX .. 'locks', RETENTION / 1000)
end
