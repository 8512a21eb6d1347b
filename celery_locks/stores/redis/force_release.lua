-- Takes the lease from all holders and wakes the first in line.
--
-- ARGV[3] most holders to name
-- Returns {holders …}

-- include records
-- include spread
-- include library

tidy()
local answer = name_holders({}, tonumber(ARGV[3]))
for _, holder in ipairs(redis.call('ZRANGE', UNTIL, 0, 999)) do -- marks of still more end with their deadlines
  unlist(redis.call('HGET', LOCK, holder) or '0 0', redis.call('ZSCORE', UNTIL, holder))
end
forget_holders()
unlist_idle()
wake()
return answer
