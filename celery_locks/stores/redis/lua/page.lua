-- Returns a page of the list of locks.
--
--   KEYS     see lock_list_prelude
--   ARGV[1]  where to begin: '[' or '(', and an entry of the list
--   ARGV[2]  what the names begin with
--   ARGV[3]  how many locks to return at most
--   ARGV[4]  how many locks to look at at most
--   ARGV[5]  how many holders of each lock to name at most
--
-- Returns {now, last name of the page or '', {name, number of waiters, permits held, token, record, deadline, …}, …}.
-- The last name is '' if there are no more locks.
--
-- Repeats: entries without a lock are removed from the list, which a second copy may do as well.

-- include lock_list_prelude

-- Returns a name without the prefix, as in the list.
local function short(name)
  return string.sub(name, #PREFIX + 1)
end

local from, to = string.sub(ARGV[1], 1, 2) .. short(string.sub(ARGV[1], 3)), '(n' .. short(ARGV[2]) .. '\255'
local count, looks, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

-- include sole_holder

-- Returns what the answer has of a lock, nil if it has neither a holder nor a waiter.
local function look(name)
  local waiting = redis.call('ZCOUNT', name .. ':alive', living, '+inf')
  local sole = sole_fields(name)
  if sole then
    local ends, record = sole_record(sole)
    if ends - now > 0 then
      return {name, waiting, tonumber(string.match(record, '^%d+')), sole[1], record, ends}
    end
  end
  local holders = redis.call('ZRANGEBYSCORE', name .. ':until', living, '+inf', 'WITHSCORES', 'LIMIT', 0, most + 1)
  if #holders == 0 and waiting == 0 then
    return nil
  end
  local known, permits = {name, waiting, 0}, 0
  for i = 1, math.min(#holders, 2 * most), 2 do
    local record = redis.call('HGET', name, holders[i])
    if record then
      permits = permits + string.match(record, '^%d+')
      known[#known + 1] = holders[i]
      known[#known + 1] = record
      known[#known + 1] = holders[i + 1]
    end
  end
  known[3] = #holders <= 2 * most and permits or tonumber(redis.call('HGET', name, 'held') or permits)
  return known
end

unlist_expired(100)
local answer, more, last = {string.format('%.0f', now), ''}, true, ''
while more and #answer - 2 < count and looks > 0 do
  local room = math.min(count - (#answer - 2), looks)
  local marks = redis.call('ZRANGEBYLEX', KEYS[1], from, to, 'LIMIT', 0, room + 1)
  more = #marks > room
  for i = 1, math.min(#marks, room) do
    last = string.sub(marks[i], 2)
    local readable, known = pcall(look, PREFIX .. last) -- another program may have written keys of another type
    if readable and known then
      answer[#answer + 1] = known
    else
      redis.call('ZREM', KEYS[1], marks[i])
      redis.call('ZREM', KEYS[2], last)
    end
  end
  from, looks = '(n' .. last, looks - room
end
answer[2] = more and PREFIX .. last or ''
return answer
