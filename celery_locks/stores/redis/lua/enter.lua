-- A message has arrived: takes the permits if it is its ticket's turn, else parks.
--
-- ARGV[3] ttl  ARGV[4] limit  ARGV[5] permits  ARGV[6] owner  ARGV[7] ticket  ARGV[8] message, '' for not to park
-- ARGV[9] task  ARGV[10] longest wait, 0 for any  ARGV[11] most in line, 0 for any  ARGV[12] most holders to name
-- ARGV[13] list of the broker's queue, '' for none  ARGV[14] what to push there  ARGV[15] for how long permits are kept then
-- ARGV[16] owner while it is parked and dispatched, '' for ARGV[6]  ARGV[17] broker of the ticket
-- ARGV[18] where its task acknowledges late, the dispatch that published this copy of the message, else ''
-- ARGV[19] number of this request  and 'repeat', see prelude
-- Returns the fencing token, {'granted', fencing token} for a ticket that was known, {'parked', number of dispatches, ticket, message, count, …, refusal …}, {'dropped', state},
-- {'full', waiters}, {'out', why, refusal …}, or {'refused', refusal …}

local REPEAT, limit, permits, deadline = ARGV[#ARGV] == 'repeat', tonumber(ARGV[4]), tonumber(ARGV[5]), now + ARGV[3]

if redis.call('EXISTS', LOCK .. ':ticket:' .. ARGV[7]) == 0 then -- it was never parked
  -- include take_free
elseif REPEAT or redis.call('HEXISTS', LOCK, 'void') == 1 then
  -- include late
end

-- include records
-- include spread
-- include grant
-- include library
-- include tickets

local id, me, most = ARGV[7], TICKET .. ARGV[7], tonumber(ARGV[12])
local mine = redis.call('HMGET', ticket(id), 'state', 'number', 'token', 'why', 'until', 'permits', 'broker', 'calls')
local state, number = mine[1], tonumber(mine[2])
local _, head = tidy()
local lock = redis.call('HMGET', LOCK, 'fence', 'held', token, me, 'lined')
local held = tonumber(lock[2] or 0)
if state and not lock[4] then -- a known ticket goes on; where permits are kept for it, `drop` is the first write
  -- include when_full
end

-- include line_up

if state == 'done' then
  return {'dropped', 'done'}
end
if state == 'out' then
  return answer('out', mine[4])
end
if lock[3] then -- the same once more: its reply was lost
  local fence = prolong(token, lock[3], deadline)
  return state and {'granted', fence} or fence
end
if state == 'running' and redis.call('HEXISTS', LOCK, mine[3]) == 1 then
  look_at(id, mine[7], redis.call('ZSCORE', UNTIL, mine[3]))
  index()
  return {'dropped', 'running'}
end

if lock[4] then -- what is kept for it, it takes or leaves now
  drop(me)
  held = held - string.match(lock[4], '^%d+')
end
local first = not head or head == me or (number and number < tonumber(redis.call('ZSCORE', LINE, head)))
if permits <= limit - held and first then
  local fence = grant(token, permits, ARGV[6], deadline, lock[1], held, limit)
  keep(held == 0 and deadline or last(UNTIL))
  if state then
    if state == 'parked' then
      leave_line(id, ARGV[9], mine[7])
      if held + permits < tonumber(lock[5] or 0) then
        wake()
      end
    end
    local owed = is_owed(id, state, mine[7])
    if ARGV[18] ~= '' and not (state ~= 'parked' and mine[8] == ARGV[18]) then
      owed = true
    end
    not_due(id, mine[7])
    if owed then
      look_at(id, mine[7], deadline)
    end
    redis.call('HSET', ticket(id), 'state', 'running', 'token', token)
    redis.call('PEXPIRE', ticket(id), 2 * KEPT / 1000)
    redis.call('SET', LOCK .. ':runs:' .. token, id, 'PX', KEPT / 1000)
    index()
    return {'granted', fence}
  end
  return fence
end

return line_up()
