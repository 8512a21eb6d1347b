-- Acquires permits for a claim that adopts a lease, replaces the holders, or is recorded for its task. Puts no one in line.
--
--   KEYS[1]   the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]   ttl
--   ARGV[4]   limit
--   ARGV[5]   permits
--   ARGV[6]   owner
--   ARGV[7]   token whose lease is adopted, or ''
--   ARGV[8]   1 to replace holders. Or 'only ' and the token of the only holder that may be displaced; see displacement
--   ARGV[9]   task, or ''
--   ARGV[10]  how many holders to name at most
--   ARGV[11]  id of the request, then maybe 'repeat'
--   LOCK:replaced:<token>  see take_by_force
--
-- Returns the fencing token; or {0, retry in, position or -1, holders …}; or {2, …} if the lease to adopt was replaced, or
-- the lease of an earlier copy of this claim.
--
-- Repeats: a token that holds gets its fencing token again. A claim that was replaced takes nothing from the newer holder.

-- include prelude

local REPEAT = ARGV[#ARGV] == 'repeat'
if REPEAT or redis.call('HEXISTS', LOCK, 'void') == 1 then
  -- include refuse_late_copy
end

-- include lock_keys
-- include spread_sole_holder
-- include grant
-- include library
-- include take_by_force

local only = string.match(ARGV[8], '^only (.*)$')
local limit, permits, adopts, deadline = tonumber(ARGV[4]), tonumber(ARGV[5]), only or ARGV[7], now + ARGV[3]
local held, head = remove_expired()

local function granted()
  local known = redis.call('HMGET', LOCK, 'fence', 'held')
  local fence = grant(token, permits, ARGV[6], deadline, known[1], tonumber(known[2] or 0), limit)
  set_expiry(last_score(UNTIL))
  if ARGV[9] ~= '' then
    local task = PREFIX .. 'task:' .. ARGV[9]
    redis.call('SET', task, string.format('lease %d ', #LOCK) .. LOCK .. token, 'PX', math.ceil(ARGV[3] / 1000))
  end
  if head == token then
    redis.call('ZREM', LINE, token)
    redis.call('ZREM', ALIVE, token)
    redis.call('DEL', WAKE .. token)
    unlist_idle()
  end
  if head then -- a holder of more permits may have made room for several waiters
    wake_first()
  end
  return fence
end

local record = redis.call('HGET', LOCK, token)
if record then -- a repeat: the reply was lost
  return extend(token, record, deadline)
end

-- 'replaced', or 1 as an older release wrote it.
local taken = redis.call('MGET', LOCK .. ':replaced:' .. token, LOCK .. ':replaced:' .. (ARGV[7] ~= '' and ARGV[7] or token))
if (taken[1] or 'force_released') ~= 'force_released' or (taken[2] or 'force_released') ~= 'force_released' then
  return refusal(2, nil, tonumber(ARGV[10]))
end

local adopted = adopts ~= '' and redis.call('HGET', LOCK, adopts)
local before = adopted and tonumber(string.match(adopted, '^%d+'))
if before and (permits <= before or permits <= limit - (held - before)) then
  local ends = redis.call('ZSCORE', UNTIL, adopts) or '0'
  remove_holder(adopts, only)
  if only then
    -- include displacement
    displace(token, adopts, adopted, ends)
    deadline = math.max(deadline, ends) -- no other claim is granted before the holder's deadline
  end
  return granted()
end

if ARGV[8] == '1' and permits <= limit and permits > limit - held then
  local holders = {}
  for _, holder in ipairs(redis.call('ZRANGEBYSCORE', UNTIL, string.format('(%.0f', now), '+inf', 'LIMIT', 0, 1000)) do
    local taken, fence = string.match(redis.call('HGET', LOCK, holder) or '', '^(%d+) (%d+)')
    holders[#holders + 1] = {holder, tonumber(taken or 0), tonumber(fence or 0)}
  end
  table.sort(holders, function(one, other) return one[3] < other[3] end)
  for _, holder in ipairs(holders) do
    if permits <= limit - held then
      break
    end
    take_by_force(holder[1], 'replaced')
    held = held - holder[2]
  end
end

if permits <= limit - held and (not head or head == token or ARGV[8] == '1') then
  return granted()
end
return refusal(0, redis.call('ZRANK', LINE, token), tonumber(ARGV[10]))
