-- Counts the locks with a prefix.
--
--   KEYS     see lock_list_prelude
--   ARGV[1]  how soon a deadline counts as near
--   ARGV[2]  how many lines to count at most
--
-- Returns {locks, holders, holders near their deadline, waiters, complete, name, for how long}. `complete` is 1 if all
-- lines were counted. The name is that of the lock that is held for longest, or ''.
--
-- Repeats: as for a page.

-- include lock_list_prelude

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
  waiting = waiting + (type(count) == 'number' and count or 0) -- an error if another program wrote a key of another type
end

local first = redis.call('ZRANGEBYLEX', KEYS[1], '[s', '(t', 'LIMIT', 0, 1)[1] or ''
local since, oldest = string.match(first, '^s(%d+) (.*)$')
return {locks, holders, near, waiting, #lines < most and 1 or 0, oldest and PREFIX .. oldest or '', math.max(0, now - (since or now))}
