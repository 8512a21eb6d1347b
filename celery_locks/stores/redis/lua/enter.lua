-- Acquires the permits if it is the ticket's turn, otherwise parks the ticket. Called when a message has arrived.
--
--   KEYS[1]   the lock; ARGV[1] and ARGV[2]: see prelude
--   ARGV[3]   ttl
--   ARGV[4]   limit
--   ARGV[5]   permits
--   ARGV[6]   owner
--   ARGV[7]   ticket
--   ARGV[8]   message, '' if the ticket is not to be parked
--   ARGV[9]   task
--   ARGV[10]  longest wait, 0 for any
--   ARGV[11]  how many waiters the line may have, 0 for any number
--   ARGV[12]  how many holders to name at most
--   ARGV[13]  owner while the ticket is parked and dispatched, '' for ARGV[6]
--   ARGV[14]  broker of the ticket
--   ARGV[15]  if the task acknowledges late, the count of the dispatch that published this message; otherwise ''
--   ARGV[16]  id of the request, then maybe 'repeat'
--
-- Returns one of:
--   the fencing token
--   {'granted', fencing token} for a known ticket
--   {'parked', number of dispatches, ticket, message, count, …, refusal …}
--   {'refused', refusal …} if the ticket is not to be parked
--   {'dropped', state of the ticket}
--   {'full', number of waiters}
--   {'out', why, refusal …}
--
-- Repeats: a token that holds gets its fencing token again, and a parked ticket keeps its place. A copy that comes after a
-- later one is refused; see refuse_late_copy.

-- include prelude

local REPEAT, limit, permits, deadline = ARGV[#ARGV] == 'repeat', tonumber(ARGV[4]), tonumber(ARGV[5]), now + ARGV[3]

if redis.call('EXISTS', LOCK .. ':ticket:' .. ARGV[7]) == 0 then -- a ticket that was never parked
  -- include grant_if_free
elseif REPEAT or redis.call('HEXISTS', LOCK, 'void') == 1 then
  -- include refuse_late_copy
end

-- include lock_keys
-- include spread_sole_holder
-- include grant
-- include library
-- include tickets

local id, me, most = ARGV[7], TICKET .. ARGV[7], tonumber(ARGV[12])
local mine = redis.call('HMGET', ticket_key(id), 'state', 'number', 'token', 'why', 'until', 'permits', 'broker', 'calls')
local state, number = mine[1], tonumber(mine[2])
local _, head = remove_expired()
local lock = redis.call('HMGET', LOCK, 'fence', 'held', token, me, 'lined')
local held = tonumber(lock[2] or 0)
if state and not lock[4] then -- if permits are kept for a known ticket, remove_holder is the first write
  -- include first_write
end

-- include park_ticket

if state == 'done' then
  return {'dropped', 'done'}
end
if state == 'out' then
  return answer('out', mine[4])
end
if lock[3] then -- a repeat: the reply was lost
  local fence = extend(token, lock[3], deadline)
  return state and {'granted', fence} or fence
end
if state == 'running' and redis.call('HEXISTS', LOCK, mine[3]) == 1 then
  set_due(id, mine[7], redis.call('ZSCORE', UNTIL, mine[3]))
  update_due()
  return {'dropped', 'running'}
end

if lock[4] then -- the permits that are kept for this ticket: it acquires them now, or parks again
  remove_holder(me)
  held = held - string.match(lock[4], '^%d+')
end
local first = not head or head == me or (number and number < tonumber(redis.call('ZSCORE', LINE, head)))
if permits <= limit - held and first then
  local fence = grant(token, permits, ARGV[6], deadline, lock[1], held, limit)
  set_expiry(held == 0 and deadline or last_score(UNTIL))
  if state then
    if state == 'parked' then
      leave_line(id, ARGV[9], mine[7])
      if held + permits < tonumber(lock[5] or 0) then
        wake_first()
      end
    end
    local owed = is_owed(id, state, mine[7])
    if ARGV[15] ~= '' and not (state ~= 'parked' and mine[8] == ARGV[15]) then
      owed = true
    end
    clear_due(id, mine[7])
    if owed then
      set_due(id, mine[7], deadline)
    end
    redis.call('HSET', ticket_key(id), 'state', 'running', 'token', token)
    redis.call('PEXPIRE', ticket_key(id), 2 * KEPT / 1000)
    redis.call('SET', LOCK .. ':runs:' .. token, id, 'PX', KEPT / 1000)
    update_due()
    return {'granted', fence}
  end
  return fence
end

return park_or_refuse()
