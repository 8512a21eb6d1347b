-- Takes the lease from one holder or from all, and wakes the first in line.
--
-- ARGV[3] most holders to name  ARGV[4] a name for this call: repeated after a lost reply, it gets the same answer
-- LOCK:forced:<call>  list: the answer, also to a first copy that comes late
-- Returns {holders …}; of the token's lease alone, where a token is given

local again = redis.call('LRANGE', LOCK .. ':forced:' .. ARGV[4], 0, -1)
if #again > 0 then
  return again
end

-- include records
-- include spread
-- include library
-- include take_away

tidy()
local answer
if token ~= '' then
  local record, ends = redis.call('HGET', LOCK, token), redis.call('ZSCORE', UNTIL, token)
  if not record or tonumber(ends or 0) <= now then
    return {string.format('%.0f', now)}
  end
  answer = {token, record, ends, string.format('%.0f', now)}
  take_away(token, 'force_released')
else
  answer = name_holders({}, tonumber(ARGV[3]))
  for _, holder in ipairs(redis.call('ZRANGE', UNTIL, 0, MOST_TAKEN - 1)) do -- marks of still more end with their deadlines
    local ends = redis.call('ZSCORE', UNTIL, holder)
    unlist(redis.call('HGET', LOCK, holder) or '0 0', ends)
    mark_taken(holder, 'force_released', tonumber(ends))
  end
  forget_holders()
end
unlist_idle()
wake()
redis.call('RPUSH', LOCK .. ':forced:' .. ARGV[4], unpack(answer))
redis.call('PEXPIRE', LOCK .. ':forced:' .. ARGV[4], 600000)
return answer
