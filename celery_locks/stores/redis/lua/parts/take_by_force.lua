-- Ends leases by force. The reason is kept for the holder's next renewal, and its process is notified.
-- Needs lock_keys and library.
--
-- LOCK:replaced:<token>   why the lease of this token was taken
-- <prefix>lost:<process>  list: tokens whose leases were taken from a process, which reads it; see _runtime/tokens.py

-- Keeps the reason and notifies the process, which has MOST_NOTICES unread notices at most. Processes that use a cluster
-- read none.
local function mark_taken(holder, why, ends)
  redis.call('SET', LOCK .. ':replaced:' .. holder, why, 'PX', math.ceil((math.max(ends - now, 0) + TAKEN_KNOWN) / 1000))
  if (#holder == 32 or #holder == 48) and string.find(holder, '^%x+$') and string.sub(PREFIX, 1, 1) ~= '{' then
    local lost = PREFIX .. 'lost:' .. string.sub(holder, 1, PROCESS_DIGITS)
    if type(redis.pcall('RPUSH', lost, holder)) == 'number' then -- otherwise the holder learns it at its next renewal
      redis.call('LTRIM', lost, -MOST_NOTICES, -1)
      redis.call('PEXPIRE', lost, 60000)
    end
  end
end

local function take_by_force(holder, why)
  local ends = tonumber(redis.call('ZSCORE', UNTIL, holder) or now)
  remove_holder(holder)
  mark_taken(holder, why, ends)
end
