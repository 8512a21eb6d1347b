-- Ends leases by force: their reason stays with their tokens, and their processes are notified. Needs records and library.
--
-- LOCK:replaced:<token>      why the lease of this token was taken
-- <prefix>lost:<process>     list: tokens that were taken from a process, which reads it; see tokens.py

-- Leaves the reason with a token, and notifies its process. Each process gets MOST_NOTICES at most; in a cluster no
-- one reads any.
local function mark_taken(holder, why, ends)
  redis.call('SET', LOCK .. ':replaced:' .. holder, why, 'PX', math.ceil((math.max(ends - now, 0) + TAKEN_KNOWN) / 1000))
  if (#holder == 32 or #holder == 48) and string.find(holder, '^%x+$') and string.sub(PREFIX, 1, 1) ~= '{' then
    local lost = PREFIX .. 'lost:' .. string.sub(holder, 1, PROCESS_DIGITS)
    if type(redis.pcall('RPUSH', lost, holder)) == 'number' then -- else the holder learns it at its next renewal
      redis.call('LTRIM', lost, -MOST_NOTICES, -1)
      redis.call('PEXPIRE', lost, 60000)
    end
  end
end

local function take_away(holder, why)
  local ends = tonumber(redis.call('ZSCORE', UNTIL, holder) or now)
  drop(holder)
  mark_taken(holder, why, ends)
end
