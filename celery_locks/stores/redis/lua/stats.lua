-- Figures over all locks of a prefix.
--
-- ARGV[1] how soon a deadline is near  ARGV[2] how many lines to count at most
-- Returns {locks, holders, near their deadline, waiting, 1 when that is all who wait, name of the lock held for longest or
-- '', for how long}

-- include listed

unlist_expired(1000)
local function mark(moment)
  return string.format('(u%.0f', moment)
end
local locks = redis.call('ZLEXCOUNT', KEYS[1], '[n', '(o')
local holders = redis.call('ZLEXCOUNT', KEYS[1], mark(now), '(v')
local near = redis.call('ZLEXCOUNT', KEYS[1], mark(now), mark(now + ARGV[1]))

local waiting, most = 0, tonumber(ARGV[2])
local lines = redis.call('ZRANGEBYSCORE', KEYS[2], living, '+inf', 'LIMIT', 0, most)
for _, name in ipairs(lines) do
  local count = redis.pcall('ZCOUNT', PREFIX .. name .. ':alive', living, '+inf')
  waiting = waiting + (type(count) == 'number' and count or 0) -- no number where there is a record of a foreign type
end

local first = redis.call('ZRANGEBYLEX', KEYS[1], '[s', '(t', 'LIMIT', 0, 1)[1] or ''
local since, oldest = string.match(first, '^s(%d+) (.*)$')
return {locks, holders, near, waiting, #lines < most and 1 or 0, oldest and PREFIX .. oldest or '', math.max(0, now - (since or now))}
