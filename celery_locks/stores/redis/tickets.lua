-- Tickets of parked tasks; see parking.py. Needs grant and library.
--
-- LOCK:ticket:<id>   hash: state, number, message, task, owner, permits, limit, until (0: no bound), calls, token (of the
--                    run), owed (a copy was dropped while it ran), why (it is out); and queue, element, within: see Push
-- LOCK:due           sorted set: ticket that is parked, called, out, or owed -> when to look at it again
-- LOCK:runs:<token>  the ticket that runs under a token
-- <prefix>parked     sorted set: lock with such tickets -> when to look at it again
-- <prefix>task:<id>  where the ticket of a task is, or the lease that was taken for it

local DUE = LOCK .. ':due'
local PREFIX = string.match(LOCK, '^[^{]*')
-- How many tickets one script calls or looks at, at most.
local MOST = 100

local function ticket(id)
  return LOCK .. ':ticket:' .. id
end

local function is_ticket(waiter)
  return waiter and string.sub(waiter, 1, #TICKET) == TICKET
end

-- Free permits, as far as a ticket with this limit is concerned.
local function room(limit)
  return tonumber(limit) - tonumber(redis.call('HGET', LOCK, 'held') or 0)
end

local function look_at(id, moment)
  redis.call('ZADD', DUE, moment, id)
  redis.call('PEXPIRE', DUE, 2 * RETENTION / 1000)
end

-- Writes down when something is next due here, and tells the sweeper if that is now.
local function index()
  local due = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
  if not due[1] then
    redis.call('ZREM', PREFIX .. 'parked', LOCK)
    return
  end
  local moment, head = tonumber(due[2]), redis.call('ZRANGE', LINE, 0, 0)[1]
  if is_ticket(head) then
    local terms = redis.call('HMGET', ticket(string.sub(head, #TICKET + 1)), 'permits', 'limit')
    local free = terms[1] and room(terms[2]) >= tonumber(terms[1])
    local first = redis.call('ZRANGE', UNTIL, 0, 0, 'WITHSCORES')[2]
    moment = math.min(moment, (free or not first) and now or tonumber(first))
  elseif head then
    moment = math.min(moment, tonumber(redis.call('ZSCORE', ALIVE, head) or now))
  end
  if moment <= now then
    due_now()
  else
    redis.call('ZADD', PREFIX .. 'parked', moment, LOCK)
    redis.call('PEXPIRE', PREFIX .. 'parked', 2 * RETENTION / 1000)
  end
end

-- Puts a ticket in line at its place, for the first time or again.
local function park(id, number, wait_until)
  redis.call('HSET', ticket(id), 'state', 'parked')
  redis.call('PEXPIRE', ticket(id), 2 * RETENTION / 1000)
  redis.call('ZADD', LINE, number, TICKET .. id)
  redis.call('ZADD', ALIVE, now + RETENTION, TICKET .. id)
  keep_line()
  look_at(id, math.min(wait_until > 0 and wait_until or math.huge, now + RETENTION / 2))
end

local function leave_line(id)
  redis.call('ZREM', LINE, TICKET .. id)
  redis.call('ZREM', ALIVE, TICKET .. id)
end

-- Sends a ticket's message, where the broker's queue is a list here, or appends it to those that are to be sent on.
local function send_on(answer, id)
  local known = redis.call('HMGET', ticket(id), 'message', 'queue', 'element', 'within')
  local calls = redis.call('HINCRBY', ticket(id), 'calls', 1)
  -- Once: it has a number of its own, by which the broker tells deliveries apart. And only if this user may.
  if calls == 1 and known[2] and type(redis.pcall('RPUSH', known[2], known[3])) == 'number' then
    look_at(id, now + known[4])
    if redis.call('ZSCORE', UNTIL, TICKET .. id) then
      redis.call('ZADD', UNTIL, now + known[4], TICKET .. id)
    end
    return
  end
  answer[#answer + 1] = id
  answer[#answer + 1] = known[1]
  answer[#answer + 1] = calls
  look_at(id, now + FIRST_CALL)
end

local function put_out(answer, id, why)
  leave_line(id)
  redis.call('HSET', ticket(id), 'state', 'out', 'why', why)
  send_on(answer, id)
end

-- Calls tickets for as long as the first in line is one and finds room: the permits are kept for it from now on.
local function call(answer)
  for _ = 1, MOST do
    local head = redis.call('ZRANGE', LINE, 0, 0)[1]
    if not is_ticket(head) then
      return answer
    end
    local id = string.sub(head, #TICKET + 1)
    local terms = redis.call('HMGET', ticket(id), 'permits', 'limit', 'owner')
    if terms[1] and room(terms[2]) < tonumber(terms[1]) then
      return answer
    end
    leave_line(id)
    if terms[1] then -- else it was evicted
      local known = redis.call('HMGET', LOCK, 'fence', 'held')
      grant(head, tonumber(terms[1]), terms[3], now + FIRST_CALL, known[1], tonumber(known[2] or 0))
      redis.call('HSET', ticket(id), 'state', 'called')
      send_on(answer, id)
      keep(last(UNTIL))
    end
  end
  return answer
end

-- Calls, and wakes the waiter that is first in line then.
local function call_or_wake(answer)
  call(answer)
  if not is_ticket(redis.call('ZRANGE', LINE, 0, 0)[1]) then
    wake()
  end
  return answer
end

-- Leaves a tombstone of a ticket. `why` and `who` got the answer that it was out.
local function finish(id, why, who)
  local task = redis.call('HGET', ticket(id), 'task')
  leave_line(id)
  redis.call('ZREM', DUE, id)
  drop(TICKET .. id)
  redis.call('DEL', ticket(id))
  redis.call('HSET', ticket(id), 'state', 'done', 'why', why or '', 'token', who or '')
  redis.call('PEXPIRE', ticket(id), TOMBSTONE / 1000)
  if task and redis.call('GET', PREFIX .. 'task:' .. task) == string.format('ticket %d ', #LOCK) .. LOCK .. id then
    redis.call('DEL', PREFIX .. 'task:' .. task)
  end
end
