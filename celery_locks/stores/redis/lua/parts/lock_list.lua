-- The list of locks; see lock_list_prelude. Most calls write to it, so these functions format nothing.

-- Adds a holder to the list; both arguments are texts.
local function list_holder(fence, deadline)
  local mark = fence .. ' ' .. NAME
  redis.call('ZADD', PREFIX .. 'locks', 0, 'n' .. NAME, 0, 's' .. mark, 0, 'u' .. deadline .. ' ' .. mark)
end

-- Extends the expiry of the list. The entry '.' keeps the list, and with it the expiry, while no lock is held.
local function set_list_expiry()
  redis.call('ZADD', PREFIX .. 'locks', 0, '.')
  redis.call('PEXPIRE', PREFIX .. 'locks', RETENTION_MS)
end
