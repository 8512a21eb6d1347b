-- Tickets of parked tasks; see parking.py. Needs grant and library.
--
-- LOCK:ticket:<id>   hash: state, number, message, task, owner, permits, limit, until (0: no bound), calls, token (of the
--                    run), why (it is out); and queue, element, within: see Push
-- LOCK:due           sorted set: ticket that is parked, called, out, or owed -> when to look at it again. Owed is a
--                    running one of which a copy was dropped.
-- LOCK:runs:<token>  the ticket that runs under a token
-- <index>parked      sorted set: lock with such tickets -> when to look at it again; see library for the index
-- <prefix>task:<id>  where the parked ticket of a task is, or the lease that was taken for it

local DUE = LOCK .. ':due'
-- How many tickets one script calls or looks at, at most.
local MOST = 100

local function ticket(id)
  return LOCK .. ':ticket:' .. id
end

local function is_ticket(waiter)
  return waiter and string.sub(waiter, 1, #TICKET) == TICKET
end

local function look_at(id, moment)
  redis.call('ZADD', DUE, moment, id)
  redis.call('PEXPIRE', DUE, 2 * KEPT / 1000)
end

-- Writes down when something is next due here, and tells the sweeper if that is now.
local function index()
  local due = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
  if not due[1] then
    redis.call('ZREM', INDEX .. 'parked', LOCK)
    return
  end
  -- Who is first in line is called by whoever makes room; unless that one dies. A waiter may have died itself.
  -- (To a waiter room means nothing here: it looks for itself.)
  local moment, head = tonumber(due[2]), redis.call('ZRANGE', LINE, 0, 0)[1]
  if is_ticket(head) then
    -- There may be room already: more than one script calls, or somebody made it who can't send.
    local terms = redis.call('HMGET', ticket(string.sub(head, #TICKET + 1)), 'permits', 'limit')
    local free = not terms[1] or (redis.call('HGET', LOCK, 'held') or 0) + terms[1] <= tonumber(terms[2])
    local first = redis.call('ZRANGE', UNTIL, 0, 0, 'WITHSCORES')[2]
    moment = (free or not first) and now or math.min(moment, tonumber(first))
  elseif head then
    moment = math.min(moment, tonumber(redis.call('ZSCORE', ALIVE, head) or now))
  end
  if moment <= now then
    due_now()
  else
    redis.call('ZADD', INDEX .. 'parked', moment, LOCK)
    redis.call('PEXPIRE', INDEX .. 'parked', 2 * KEPT / 1000)
  end
end

-- Puts a ticket in line at its place, for the first time or again. What is due here is to be written down after it.
local function park(id, number, wait_until, task)
  redis.call('HSET', ticket(id), 'state', 'parked')
  redis.call('PEXPIRE', ticket(id), 2 * KEPT / 1000)
  redis.call('ZADD', LINE, number, TICKET .. id)
  redis.call('ZADD', ALIVE, now + KEPT, TICKET .. id)
  keep_line()
  look_at(id, math.min(wait_until > 0 and wait_until or math.huge, now + KEPT / 2))
  local place = string.format('ticket %d ', #LOCK) .. LOCK .. id -- the length, since a name may hold anything
  redis.call('SET', PREFIX .. 'task:' .. task, place, 'PX', KEPT / 1000)
end

local function leave_line(id, task)
  redis.call('ZREM', LINE, TICKET .. id)
  redis.call('ZREM', ALIVE, TICKET .. id)
  unlist_idle()
  if task then
    redis.call('DEL', PREFIX .. 'task:' .. task)
  end
end

-- Sends a ticket's message, where the broker's queue is a list here, or appends it to those that are to be sent on.
-- Returns when to look at it again.
local function send_on(answer, id, state, why)
  local known = redis.call('HMGET', ticket(id), 'message', 'queue', 'element', 'within', 'calls')
  local calls = tonumber(known[5] or 0) + 1
  redis.call('HSET', ticket(id), 'state', state, 'why', why or '', 'calls', calls)
  local moment = now + FIRST_CALL
  -- Once: it has a number of its own, by which the broker tells deliveries apart. And only if this user may.
  if calls == 1 and known[2] and type(redis.pcall('RPUSH', known[2], known[3])) == 'number' then
    moment = now + known[4]
  else
    answer[#answer + 1] = id
    answer[#answer + 1] = known[1]
    answer[#answer + 1] = calls
  end
  look_at(id, moment)
  return moment
end

local function put_out(answer, id, task, why)
  leave_line(id, task)
  send_on(answer, id, 'out', why)
end

-- Calls tickets for as long as the first in line is one and finds room: the permits are kept for it from now on.
local function call(answer)
  local known = redis.call('HMGET', LOCK, 'fence', 'held')
  local fence, held, called = known[1], tonumber(known[2] or 0), false
  for _ = 1, MOST do
    local head = redis.call('ZRANGE', LINE, 0, 0)[1]
    if not is_ticket(head) then
      break
    end
    local id = string.sub(head, #TICKET + 1)
    local terms = redis.call('HMGET', ticket(id), 'permits', 'limit', 'owner', 'task')
    if terms[1] and held + terms[1] > tonumber(terms[2]) then
      break
    end
    leave_line(id, terms[4])
    if terms[1] then -- else it was evicted
      local kept_until = send_on(answer, id, 'called')
      fence = grant(head, tonumber(terms[1]), terms[3], kept_until, fence, held, terms[2])
      held, called = held + terms[1], true
    end
  end
  if called then
    keep(last(UNTIL))
  end
  return answer
end

-- Calls, and wakes the waiter that is first in line then.
local function call_or_wake(answer)
  call(answer)
  local head = redis.call('ZRANGE', LINE, 0, 0)[1]
  if head and not is_ticket(head) then
    wake()
  end
  return answer
end

-- Leaves a tombstone of a ticket. `who` got the answer why it was out.
local function finish(id, why, who)
  redis.call('ZREM', DUE, id)
  redis.call('DEL', ticket(id))
  redis.call('HSET', ticket(id), 'state', 'done', 'why', why or '', 'token', who or '')
  redis.call('PEXPIRE', ticket(id), math.min(TOMBSTONE, KEPT) / 1000)
end

-- Leaves a tombstone of a ticket whose run under this token has ended; unless it was parked again or runs elsewhere,
-- since this run's lease had ended before.
local function finish_run(id)
  local run = redis.call('HMGET', ticket(id), 'state', 'token')
  if run[1] == 'running' and run[2] == token then
    finish(id)
  end
end
