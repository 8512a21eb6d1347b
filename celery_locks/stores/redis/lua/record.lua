-- A holder's record with another ttl, in microseconds: no lease lives for longer than that from now on, whatever the clock
-- says. A record of the version before has none.
local function with_ttl(record, ttl)
  local terms, known = string.match(record, '^(%d+ %d+ %d+ %d+ t)(%d+) ')
  if not terms or tonumber(known) == ttl then
    return record
  end
  -- By place: there may be a NUL in the owner's name.
  return terms .. string.format('%.0f', ttl) .. string.sub(record, #terms + #known + 1)
end
