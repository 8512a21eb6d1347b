-- Names the locks in which a ticket is due, the earliest first. If the clock was set back, what is due is moved with it.
--
--   KEYS     one or two sorted sets: lock -> when a ticket in it is due; the last one has no broker
--   ARGV[1]  how many locks to name at most; 0 to ask for the next time only
--
-- Returns the locks; or, for 0, the microseconds until a ticket is due, -1 if none will be.
--
-- <set>:clock  the time at which a sweeper last looked at a set that was not empty
--
-- Repeats: a second copy finds the time of the first one.

-- include clock

-- Moves what is due in a set by the time that the clock was set back. An early moment only costs a sweep.
local function move_due(set, back)
  local broker = string.sub(set, #KEYS[#KEYS] + 1)
  redis.call('ZREM', set, '') -- first, for a full server; see first_write
  local late = redis.call('ZRANGEBYSCORE', set, string.format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, 10000)
  for i = 1, #late, 2 do
    redis.call('ZADD', set, string.format('%.0f', late[i + 1] - back), late[i])
    local tickets = redis.pcall('ZRANGE', late[i] .. ':due' .. broker, 0, 99, 'WITHSCORES')
    for j = 1, #tickets, 2 do -- an error has no length
      redis.call('ZADD', late[i] .. ':due' .. broker, string.format('%.0f', tickets[j + 1] - back), tickets[j])
      local ticket = late[i] .. ':ticket:' .. tickets[j]
      local ends = tonumber(redis.pcall('HGET', ticket, 'until')) or 0 -- nil for an error, and for no ticket
      if ends > 0 then
        redis.call('HSET', ticket, 'until', string.format('%.0f', ends - back))
      end
    end
  end
end

for _, set in ipairs(KEYS) do
  if redis.call('EXISTS', set) == 1 then
    local back = tonumber(redis.call('GET', set .. ':clock') or 0) - now
    if back <= 1000000 or pcall(move_due, set, back) then
      redis.pcall('SET', set .. ':clock', string.format('%.0f', now), 'PX', RETENTION_MS) -- refused by a full server
    end
  end
end

if ARGV[1] == '0' then
  local soonest = -1
  for _, set in ipairs(KEYS) do
    local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
    local left = first and math.max(0, first - now)
    if left and (soonest < 0 or left < soonest) then
      soonest = left
    end
  end
  return soonest
end

local found = {}
for _, set in ipairs(KEYS) do
  local due = redis.call('ZRANGEBYSCORE', set, '-inf', string.format('%.0f', now), 'WITHSCORES', 'LIMIT', 0, ARGV[1])
  for i = 1, #due, 2 do
    found[#found + 1] = {due[i], tonumber(due[i + 1])}
  end
end
table.sort(found, function(one, other) return one[2] < other[2] end)
local names, named = {}, {}
for _, lock in ipairs(found) do
  if not named[lock[1]] and #names < tonumber(ARGV[1]) then
    named[lock[1]] = true
    names[#names + 1] = lock[1]
  end
end
return names
