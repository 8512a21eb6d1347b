-- Tickets of parked tasks; see stores/parking.py. Needs grant and library.
--
-- LOCK:ticket:<id>         hash: state, number, message, task, owner, permits, limit, until (0: no longest wait), calls (how
--                          often the ticket was dispatched), token (of its run), why (it is out), broker
-- LOCK:due:<broker>        sorted set: ticket that is parked, dispatched, out or owed -> when it is due.
--                          Without a broker the key is LOCK:due
-- LOCK:runs:<token>        the ticket that runs under a token
-- <index>parked:<broker>   sorted set: lock with tickets -> when one of them is due; see INDEX in library
-- <prefix>task:<id>        the parked ticket of a task, or the lease that was acquired for it. The broker of a ticket
--                          comes after the id

-- How many tickets one script dispatches or looks at at most.
local MOST = 100
-- The brokers of the tickets whose due time this script has changed.
local touched = {}

local function ticket_key(id)
  return LOCK .. ':ticket:' .. id
end

local function due_set(broker)
  return LOCK .. of_broker(':due', broker)
end

local function is_ticket(waiter)
  return waiter and string.sub(waiter, 1, #TICKET) == TICKET
end

-- The version before wrote "called"; see `publish`.
local function is_dispatched(state)
  return state == 'dispatched' or state == 'called'
end

local function may_dispatch(owned_by, broker)
  return not owned_by or owned_by == '' or owned_by == broker
end

-- Returns the key that names the parked ticket of a task. Two brokers may have tasks with the same id.
local function task_place(task, broker)
  return PREFIX .. of_broker('task:' .. task, broker)
end

-- Returns at most MOST tickets of a broker that are due.
local function due(broker)
  return redis.call('ZRANGEBYSCORE', due_set(broker), '-inf', now, 'LIMIT', 0, MOST)
end

local function set_due(id, broker, moment)
  touched[broker or ''] = true
  redis.call('ZADD', due_set(broker), moment, id)
  redis.call('PEXPIRE', due_set(broker), 2 * KEPT / 1000)
end

local function clear_due(id, broker)
  touched[broker or ''] = true
  redis.call('ZREM', due_set(broker), id)
  if broker and broker ~= '' then
    redis.call('ZREM', due_set(''), id) -- where the version before put it
  end
end

-- Moves a ticket from the due tickets without a broker to those of its own broker. The earlier time counts: the version
-- before wrote one of them, and a sweep that comes too early costs only a message.
local function move_to_broker(id, broker)
  local moment = redis.call('ZSCORE', due_set(''), id)
  redis.call('ZREM', due_set(''), id)
  local known = redis.call('ZSCORE', due_set(broker), id)
  set_due(id, broker, math.min(tonumber(moment), tonumber(known or moment)))
end

-- Returns whether the run of a ticket is owed: then the ticket is parked again if that run does not end for good.
local function is_owed(id, state, broker)
  if state ~= 'running' and state ~= 'ended' then
    return false
  end
  return (redis.call('ZSCORE', due_set(broker), id) or redis.call('ZSCORE', due_set(''), id)) and true or false
end

-- Records when a ticket of this lock is next due, for the sweepers of the touched brokers. Wakes a sweeper if it is due now.
local function update_due()
  -- A script that releases permits dispatches the first ticket, unless its broker is another one. But the process that
  -- should release them may die, and so may a waiter before the first ticket. A waiter itself needs no sweeper.
  local head, head_broker, moment = redis.call('ZRANGE', LINE, 0, 0)[1], nil, nil
  if is_ticket(head) then
    -- Permits may be free already: a script dispatches a limited number of tickets, and only those of its broker.
    local terms = redis.call('HMGET', ticket_key(string.sub(head, #TICKET + 1)), 'permits', 'limit', 'broker')
    local free = not terms[1] or tonumber(terms[1]) <= terms[2] - (redis.call('HGET', LOCK, 'held') or 0)
    local first = redis.call('ZRANGE', UNTIL, 0, 0, 'WITHSCORES')[2]
    head_broker, moment = terms[3] or '', (free or not first) and now or tonumber(first)
    touched[head_broker] = true
  elseif head then
    moment = tonumber(redis.call('ZSCORE', ALIVE, head) or now)
  end
  for broker in pairs(touched) do
    local due = tonumber(redis.call('ZRANGE', due_set(broker), 0, 0, 'WITHSCORES')[2])
    if moment and (head_broker == broker or (not head_broker and due)) then
      due = math.min(due or moment, moment)
    end
    set_lock_due(broker, due)
  end
end

-- Puts a ticket in line at its place, for the first time or again. The caller calls update_due afterwards.
local function put_in_line(id, number, wait_until, task, broker, limit)
  redis.call('HSET', ticket_key(id), 'state', 'parked')
  redis.call('PEXPIRE', ticket_key(id), 2 * KEPT / 1000)
  redis.call('ZADD', LINE, number, TICKET .. id)
  redis.call('ZADD', ALIVE, now + KEPT, TICKET .. id)
  set_line_expiry(limit or tonumber(redis.call('HGET', ticket_key(id), 'limit') or '1'))
  set_due(id, broker, math.min(wait_until > 0 and wait_until or math.huge, now + KEPT / 2))
  local place = string.format('ticket %d ', #LOCK) .. LOCK .. id -- with the length, since a name may contain any character
  redis.call('SET', task_place(task, broker), place, 'PX', KEPT / 1000)
end

local function leave_line(id, task, broker)
  redis.call('ZREM', LINE, TICKET .. id)
  redis.call('ZREM', ALIVE, TICKET .. id)
  unlist_idle()
  if task then
    redis.call('DEL', task_place(task, broker))
  end
end

-- Appends a ticket's message to the messages to publish. Returns when the ticket is due again.
local function publish(answer, id, state, why)
  local known = redis.call('HMGET', ticket_key(id), 'message', 'calls', 'broker')
  local count = tonumber(known[2] or 0) + 1
  if state == 'dispatched' and (known[3] or '') == '' then
    state = 'called' -- sweepers of the version before look at tickets without a broker, and know this word only
  end
  redis.call('HSET', ticket_key(id), 'state', state, 'why', why or '', 'calls', count)
  local moment = now + FIRST_DISPATCH
  answer[#answer + 1] = id
  answer[#answer + 1] = known[1]
  answer[#answer + 1] = count
  set_due(id, known[3], moment)
  return moment
end

local function take_out(answer, id, task, why, broker)
  leave_line(id, task, broker)
  publish(answer, id, 'out', why)
end

-- Dispatches tickets while the first in line is a ticket of this broker and its permits are free. They are kept for it.
local function dispatch(answer, broker)
  local known = redis.call('HMGET', LOCK, 'fence', 'held')
  local fence, held, dispatched = known[1], tonumber(known[2] or 0), false
  for _ = 1, MOST do
    local head = redis.call('ZRANGE', LINE, 0, 0)[1]
    if not is_ticket(head) then
      break
    end
    local id = string.sub(head, #TICKET + 1)
    local terms = redis.call('HMGET', ticket_key(id), 'permits', 'limit', 'owner', 'task', 'broker')
    if terms[1] and (tonumber(terms[1]) > terms[2] - held or not may_dispatch(terms[5], broker)) then
      break
    end
    leave_line(id, terms[4], terms[5])
    if terms[1] then -- otherwise it was evicted
      local kept_until = publish(answer, id, 'dispatched')
      fence = grant(head, tonumber(terms[1]), terms[3], kept_until, fence, held, terms[2])
      held, dispatched = held + terms[1], true
    end
  end
  if dispatched then
    set_expiry(last_score(UNTIL))
  end
  return answer
end

-- Dispatches tickets, and wakes the waiter that is first in line then.
local function dispatch_or_wake(answer, broker)
  dispatch(answer, broker)
  local head = redis.call('ZRANGE', LINE, 0, 0)[1]
  if head and not is_ticket(head) then
    wake_first()
  end
  return answer
end

-- Ends a ticket. Its tombstone stays.
local function leave_tombstone(id, broker)
  clear_due(id, broker)
  redis.call('DEL', ticket_key(id))
  redis.call('HSET', ticket_key(id), 'state', 'done')
  redis.call('PEXPIRE', ticket_key(id), math.min(TOMBSTONE, KEPT) / 1000)
end

-- Settles a ticket whose run under this token has ended. A ticket that was parked again, or that runs under another token,
-- is left alone: this run's lease had expired before.
local function settle_run(id, how)
  local run = redis.call('HMGET', ticket_key(id), 'state', 'token', 'number', 'until', 'task', 'broker')
  if run[1] ~= 'running' or run[2] ~= token then
    return
  end
  if how == 'final' then
    leave_tombstone(id, run[6])
    return
  end
  local owed = is_owed(id, run[1], run[6])
  if owed and how == 'again' then
    put_in_line(id, run[3], tonumber(run[4] or 0), run[5], run[6])
    return
  end
  redis.call('HSET', ticket_key(id), 'state', 'ended')
  if owed and how == 'rejected' then -- only a dead-letter queue can bring its message again
    clear_due(id, run[6])
    owed = false
  end
  if owed then -- the ticket must outlive a time without a sweeper
    clear_due(id, run[6])
    set_due(id, run[6], now + STORE_GRACE)
    redis.call('PEXPIRE', ticket_key(id), 2 * KEPT / 1000)
  else
    redis.call('PEXPIRE', ticket_key(id), math.min(TOMBSTONE, KEPT) / 1000)
  end
end
