-- The list of what is held, over all locks; see listed.lua. Nothing is formatted here: these scripts are called most.

-- Puts a holder on the list; both are text.
local function list(fence, deadline)
  local mark = fence .. ' ' .. NAME
  redis.call('ZADD', PREFIX .. 'locks', 0, 'n' .. NAME, 0, 's' .. mark, 0, 'u' .. deadline .. ' ' .. mark)
end

-- Keeps the list, which would be gone with its expiry as soon as nobody holds anything.
local function keep_list()
  redis.call('ZADD', PREFIX .. 'locks', 0, '.')
  redis.call('PEXPIRE', PREFIX .. 'locks', RETENTION_MS)
end
