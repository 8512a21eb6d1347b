-- The short form of a lock with one holder; see prelude.

-- Returns the fields of the sole holder, nil if there is none.
local function sole_fields(lock)
  local known = redis.call('HMGET', lock, 'sole', 'terms', 'owner', 'owner2', 'owner3')
  return known[1] and known[1] ~= '' and known or nil
end

-- Returns the deadline and the record of the sole holder, as other holders have them.
local function sole_record(known)
  local ends, permits, fence, since, limit, ttl = string.match(known[2], '^(%d+) (%d+) (%d+) (%d+) (%d+) ?(%d*)$')
  local owner = (known[3] or '') .. (known[4] or '') .. (known[5] or '')
  local terms = permits .. ' ' .. fence .. ' ' .. (since == '0' and fence or since) .. ' ' .. limit
  return ends, terms .. (ttl == '' and ' ' or ' t' .. ttl .. ' ') .. owner -- the version before wrote no ttl
end
