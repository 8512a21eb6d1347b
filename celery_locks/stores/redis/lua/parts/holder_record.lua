-- Returns a holder's record with another ttl, in microseconds. From now on the lease lives no longer than that, even if the
-- clock is set back. The version before wrote no ttl.
local function with_ttl(record, ttl)
  local terms, known = string.match(record, '^(%d+ %d+ %d+ %d+ t)(%d+) ')
  if not terms or tonumber(known) == ttl then
    return record
  end
  -- By position: an owner's name may contain a NUL.
  return terms .. string.format('%.0f', ttl) .. string.sub(record, #terms + #known + 1)
end
