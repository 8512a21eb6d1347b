-- Releases the lease of one holder or of all holders by force, and wakes the first in line.
--
--   KEYS[1]  the lock; ARGV[1]: the holder's token, '' for all; ARGV[2]: see prelude
--   ARGV[3]  how many holders to name at most
--   ARGV[4]  id of the request
--   LOCK:forced:<id>  list: the answer
--
-- Returns {holders …} of the released leases; see append_holders in library.
--
-- Repeats: each copy returns the kept answer and releases nothing more, a first copy that comes late too.

-- include prelude

local answered = redis.call('LRANGE', LOCK .. ':forced:' .. ARGV[4], 0, -1)
if #answered > 0 then
  return answered
end

-- include lock_keys
-- include spread_sole_holder
-- include library
-- include take_by_force

remove_expired()
local answer
if token ~= '' then
  local record, ends = redis.call('HGET', LOCK, token), redis.call('ZSCORE', UNTIL, token)
  if not record or tonumber(ends or 0) <= now then
    return {string.format('%.0f', now)}
  end
  answer = {token, record, ends, string.format('%.0f', now)}
  take_by_force(token, 'force_released')
else
  answer = append_holders({}, tonumber(ARGV[3]))
  -- The entries of still more holders end with their deadlines.
  for _, holder in ipairs(redis.call('ZRANGE', UNTIL, 0, MOST_TAKEN - 1)) do
    local ends = redis.call('ZSCORE', UNTIL, holder)
    unlist_holder(redis.call('HGET', LOCK, holder) or '0 0', ends)
    mark_taken(holder, 'force_released', tonumber(ends))
  end
  forget_holders()
end
unlist_idle()
wake_first()
redis.call('RPUSH', LOCK .. ':forced:' .. ARGV[4], unpack(answer))
redis.call('PEXPIRE', LOCK .. ':forced:' .. ARGV[4], 600000)
return answer
