-- Ends a script that was called by a late copy of a claim, and has a repeated claim's first copy change nothing from now
-- on. Needs REPEAT; the number of the request is the last argument, or before 'repeat'.

-- include void
local first = token .. ' ' .. ARGV[#ARGV - (REPEAT and 1 or 0)]
if redis.call('ZSCORE', VOID, REPEAT and first .. ' repeat' or first) then
  return redis.error_reply('LATE this copy of a request came after a later one')
end
if REPEAT then
  void(first)
elseif redis.call('EXISTS', VOID) == 0 then
  redis.call('HDEL', LOCK, 'void')
end
