-- Takes permits for a claim that adopts a lease, replaces the holders, or can be withdrawn by its task. Nobody lines up.
--
-- ARGV[3] ttl  ARGV[4] limit  ARGV[5] permits  ARGV[6] owner  ARGV[7] token to adopt or ''  ARGV[8] 1 to replace,
-- or 'only ' and the token of the only holder to take the lease from: it is displaced; see displaced
-- ARGV[9] task or ''  ARGV[10] most holders to name  ARGV[11] number of this request  and 'repeat', see prelude
-- Returns the fencing token, {0, retry in, position or -1, holders …}, or {2, …} when the lease to adopt was replaced, or
-- that of an earlier copy of this claim
--
-- LOCK:replaced:<token>  why the lease of this token was taken; see take_away

local REPEAT = ARGV[#ARGV] == 'repeat'
if REPEAT or redis.call('HEXISTS', LOCK, 'void') == 1 then
  -- include late
end

-- include records
-- include spread
-- include grant
-- include library
-- include take_away

local only = string.match(ARGV[8], '^only (.*)$')
local limit, permits, adopts, deadline = tonumber(ARGV[4]), tonumber(ARGV[5]), only or ARGV[7], now + ARGV[3]
local held, head = tidy()

local function granted()
  local known = redis.call('HMGET', LOCK, 'fence', 'held')
  local fence = grant(token, permits, ARGV[6], deadline, known[1], tonumber(known[2] or 0), limit)
  keep(last(UNTIL))
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
  if head then -- a heavier holder may have made room for more
    wake()
  end
  return fence
end

local record = redis.call('HGET', LOCK, token)
if record then -- the same claim once more: its reply was lost
  return prolong(token, record, deadline)
end

-- 'replaced', or 1 as an older release wrote it. A claim that was replaced takes nothing back from the newer one.
local taken = redis.call('MGET', LOCK .. ':replaced:' .. token, LOCK .. ':replaced:' .. (ARGV[7] ~= '' and ARGV[7] or token))
if (taken[1] or 'force_released') ~= 'force_released' or (taken[2] or 'force_released') ~= 'force_released' then
  return refusal(2, nil, tonumber(ARGV[10]))
end

local adopted = adopts ~= '' and redis.call('HGET', LOCK, adopts)
local before = adopted and tonumber(string.match(adopted, '^%d+'))
if before and (permits <= before or permits <= limit - (held - before)) then
  local ends = redis.call('ZSCORE', UNTIL, adopts) or '0'
  drop(adopts, only)
  if only then
    -- include displaced
    displace(token, adopts, adopted, ends)
    deadline = math.max(deadline, ends) -- no one else comes before the holder's deadline
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
    take_away(holder[1], 'replaced')
    held = held - holder[2]
  end
end

if permits <= limit - held and (not head or head == token or ARGV[8] == '1') then
  return granted()
end
return refusal(0, redis.call('ZRANK', LINE, token), tonumber(ARGV[10]))
