-- Ends the script with an error if this copy of the request is void. If this copy is the repeat, voids the first one.
-- Needs REPEAT. The id of the request is the last argument, or the last but one before 'repeat'.

-- include voided_requests
local first = token .. ' ' .. ARGV[#ARGV - (REPEAT and 1 or 0)]
if redis.call('ZSCORE', VOID, REPEAT and first .. ' repeat' or first) then
  return redis.error_reply('LATE this copy of a request came after a later one')
end
if REPEAT then
  void(first)
elseif redis.call('EXISTS', VOID) == 0 then
  redis.call('HDEL', LOCK, 'void')
end
