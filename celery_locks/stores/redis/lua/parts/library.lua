-- Functions about the holders, the waiters and the times when something is due. Needs lock_keys.

-- INDEX is the beginning of the names of the sweeper's records, KEPT the time for which tickets are kept. A throwaway lock
-- has records of its own: no sweeper finds them, and they expire soon, even if its process dies. See stores/trial.py.
local INDEX, KEPT = PREFIX, RETENTION
if string.sub(NAME, 1, #TRIAL) == TRIAL then
  INDEX, KEPT = LOCK .. ':', TRIAL_RETENTION
end

-- include key_expiry
-- include forget_holders
-- include lock_list
-- include holder_record
-- include sole_holder

-- Removes a holder from the list.
local function unlist_holder(record, deadline)
  local mark = string.match(record, '^%d+ (%d+)') .. ' ' .. NAME
  redis.call('ZREM', PREFIX .. 'locks', 's' .. mark, 'u' .. (deadline or '0') .. ' ' .. mark)
end

-- Removes the lock from the lists if it has neither a holder nor a waiter.
local function unlist_idle()
  if redis.call('EXISTS', LINE) == 0 then
    redis.call('HDEL', LOCK, 'lined')
    redis.call('ZREM', PREFIX .. 'lines', NAME)
    if tonumber(redis.call('HGET', LOCK, 'held') or 0) == 0 then
      redis.call('ZREM', PREFIX .. 'locks', 'n' .. NAME)
    end
  end
end

-- Removes a holder. A lease that the holder had displaced can't be restored afterwards. With `is_displaced` it can: then
-- another claim displaces this holder, and may restore it.
local function remove_holder(holder, is_displaced)
  local known, ends = redis.call('HMGET', LOCK, holder, 'of ' .. holder), redis.call('ZSCORE', UNTIL, holder)
  local record, displaced, claim = known[1], known[2], holder
  if record then
    unlist_holder(record, ends)
  end
  redis.call('ZREM', UNTIL, holder)
  if ends and ends - now > FENCE_KEPT then -- a long lease that was released early
    set_expiry(last_score(UNTIL) or now)
  end
  if record then
    redis.call('HDEL', LOCK, holder)
    redis.call('HINCRBY', LOCK, 'held', '-' .. string.match(record, '^%d+'))
  end
  if displaced and not is_displaced then
    -- include displacement
    while displaced do -- also the lease that the displaced holder had displaced
      claim = end_displacement(claim, displaced)
      displaced = claim and redis.call('HGET', LOCK, 'of ' .. claim)
    end
  end
end

-- Extends a holder's lease, never shortens it. Returns its fencing token.
local function extend(holder, record, deadline)
  local fence, before = string.match(record, '^%d+ (%d+)'), redis.call('ZSCORE', UNTIL, holder) or '0'
  if deadline > tonumber(before) then
    unlist_holder(record, before)
    redis.call('ZADD', UNTIL, deadline, holder)
    redis.call('HSET', LOCK, holder, with_ttl(record, deadline - now))
    list_holder(fence, string.format('%.0f', deadline))
  end
  set_expiry(last_score(UNTIL))
  return tonumber(fence)
end

-- Removes holders and waiters whose deadline has passed: at most 100 of each in one call.
-- Returns the permits that are still held, and the first in line.
local function remove_expired()
  local is_changed = false
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', UNTIL, '-inf', now, 'LIMIT', 0, 100)) do
    remove_holder(gone)
    is_changed = true
  end
  local held = tonumber(redis.call('HGET', LOCK, 'held') or 0)
  if held > 0 and redis.call('EXISTS', UNTIL) == 0 then
    forget_holders() -- the deadlines were evicted: no one knows when these leases end
    held = 0
  end
  local head = redis.call('ZRANGE', LINE, 0, 0)[1]
  if head then -- not only the first: a waiter that comes back late has lost its place
    for _, gone in ipairs(redis.call('ZRANGEBYSCORE', ALIVE, '-inf', now, 'LIMIT', 0, 100)) do
      redis.call('ZREM', LINE, gone)
      redis.call('ZREM', ALIVE, gone)
      is_changed = true
    end
    head = redis.call('ZRANGE', LINE, 0, 0)[1]
    if head and string.sub(head, 1, #TICKET) ~= TICKET then
      local ends = redis.call('ZSCORE', ALIVE, head)
      if not ends then
        redis.call('ZREM', LINE, head) -- its deadline was evicted
        is_changed = true
        head = redis.call('ZRANGE', LINE, 0, 0)[1]
      elseif ends - now > 60000000 and redis.call('ZSCORE', LINE, head) - now > 1000000 then
        -- The clock was set back since this waiter came. If its process lives, it soon asks again.
        redis.call('ZADD', ALIVE, now + 60000000, head)
      end
    end
  end
  if is_changed or not head then
    unlist_idle()
  end
  return held, head
end

-- Returns a number for a place in line: greater than all before it, also than those of waiters that have left.
local function next_place()
  return math.max((last_score(LINE) or 0) + 1, now)
end

-- Has the line expire with the last place in it. `limit` is the limit of the last waiter.
local function set_line_expiry(limit)
  local expiry = math.ceil((last_score(ALIVE) or now) / 1000)
  redis.call('PEXPIREAT', LINE, expiry)
  redis.call('PEXPIREAT', ALIVE, expiry)
  local known = redis.call('HMGET', LOCK, 'fence', 'lined')
  if known[1] then
    redis.call('HSET', LOCK, 'lined', string.format('%.0f', math.max(1, limit or 1, tonumber(known[2] or 1))))
  end
  redis.call('ZADD', PREFIX .. 'lines', expiry * 1000, NAME)
  redis.call('PEXPIRE', PREFIX .. 'lines', 2 * RETENTION / 1000)
  redis.call('ZADD', PREFIX .. 'locks', 0, 'n' .. NAME)
  set_list_expiry()
end

-- Returns the name of a record of one broker. Without a broker it is the name that the version before used.
local function of_broker(name, broker)
  return (broker or '') == '' and name or name .. ':' .. broker
end

local function wake_sweeper(broker)
  local sweep = INDEX .. of_broker('sweep', broker)
  redis.call('LPUSH', sweep, 1)
  redis.call('LTRIM', sweep, 0, 0)
  redis.call('PEXPIRE', sweep, math.min(60000, KEPT / 1000))
end

-- Records for a broker's sweeper when a ticket is due in this lock; nil for never.
local function set_lock_due(broker, moment)
  local parked = INDEX .. of_broker('parked', broker)
  if not moment then
    redis.call('ZREM', parked, LOCK)
    return
  end
  if moment <= now then
    moment = now
    wake_sweeper(broker)
  elseif moment < now + LONGEST_SLEEP then -- the sweeper may be waiting for a later moment
    local first = redis.call('ZRANGE', parked, 0, 0, 'WITHSCORES')[2]
    if not first or moment < tonumber(first) then
      wake_sweeper(broker)
    end
  end
  redis.call('ZADD', parked, moment, LOCK)
  redis.call('PEXPIRE', parked, 2 * KEPT / 1000)
end

-- Wakes the first in line: it may be its turn. The wake-up grants nothing: the waiter asks again.
local function wake_first()
  local head = redis.call('ZRANGE', LINE, 0, 0)[1]
  if not head then
    return
  end
  if string.sub(head, 1, #TICKET) == TICKET then
    set_lock_due(redis.call('HGET', LOCK .. ':ticket:' .. string.sub(head, #TICKET + 1), 'broker'), now)
    return
  end
  redis.call('RPUSH', WAKE .. head, 1)
  redis.call('PEXPIRE', WAKE .. head, 60000)
end

-- Returns the deadline of a holder. If it is later than the ttl allows, the clock was set back: then it is moved.
local function corrected_deadline(holder, record, ends)
  local ttl = tonumber(string.match(record, '^%d+ %d+ %d+ %d+ t(%d+) ') or '')
  if not ttl or ends - now <= ttl then
    return ends
  end
  local deadline = string.format('%.0f', now + ttl)
  unlist_holder(record, ends)
  redis.call('ZADD', UNTIL, deadline, holder)
  list_holder(string.match(record, '^%d+ (%d+)'), deadline)
  return deadline
end

-- Appends at most `most` holders to an answer: token, record, deadline, …, and the time. With `corrects`, deadlines that
-- are too late are moved.
local function append_holders(answer, most, corrects)
  local sole = sole_fields(LOCK)
  if sole then
    local ends, record = sole_record(sole)
    if ends - now > 0 then
      answer[#answer + 1] = sole[1]
      answer[#answer + 1] = record
      answer[#answer + 1] = ends
    end
  end
  local holders = redis.call('ZRANGEBYSCORE', UNTIL, string.format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #holders, 2 do
    local record, ends = redis.call('HGET', LOCK, holders[i]) or '1 0 0 0 ', holders[i + 1]
    answer[#answer + 1] = holders[i]
    answer[#answer + 1] = record
    answer[#answer + 1] = corrects and corrected_deadline(holders[i], record, ends) or ends
  end
  answer[#answer + 1] = string.format('%.0f', now)
  return answer
end

-- Returns the answer to a claim that was not granted: {kind, retry in, position or -1, holders …}.
local function refusal(kind, place, most)
  local answer = append_holders({kind, 0, place or -1}, most, true)
  -- The next event that wakes no one: the place before ends, or the deadline of a holder or of the first waiter passes.
  local event
  if place and place > 0 then
    event = redis.call('ZSCORE', ALIVE, redis.call('ZRANGE', LINE, place - 1, place - 1)[1])
  else
    event = redis.call('ZRANGE', UNTIL, 0, 0, 'WITHSCORES')[2] or redis.call('ZRANGE', ALIVE, 0, 0, 'WITHSCORES')[2]
  end
  -- Without an event the claim asks for more permits than the limit: no moment is better than another.
  answer[2] = math.max(0, (event or now + 1000000) - now)
  return answer
end
