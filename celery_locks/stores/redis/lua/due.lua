-- Names the locks in which a ticket is due, the earliest first. Changes nothing.
--
--   KEYS     one or two sorted sets: lock -> when a ticket in it is due
--   ARGV[1]  how many locks to name at most; 0 to ask for the next time only
--
-- Returns the locks; or, for 0, the microseconds until a ticket is due, -1 if none will be.

-- include clock
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
