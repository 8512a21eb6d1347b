-- A message has arrived at a worker's parent: parks it if it can't run now. Takes no permits.
--
-- Arguments as those of `enter`, the number of the request and 'repeat' too.
-- Returns 0 when nothing was changed, or what `enter` returns: {'parked', …}, {'refused', …}, {'full', …}

local REPEAT = ARGV[#ARGV] == 'repeat'
if REPEAT or redis.call('HEXISTS', LOCK, 'void') == 1 then
  -- include late
end

-- include records
-- include spread
-- include grant
-- include library
-- include tickets

local limit, permits = tonumber(ARGV[4]), tonumber(ARGV[5])
local id, me, most = ARGV[7], TICKET .. ARGV[7], tonumber(ARGV[12])
local held, head = tidy()
if (not head and permits <= limit - held) or redis.call('EXISTS', ticket(id)) == 1 then
  return 0
end
local state, number, mine = nil, nil, {}

-- include line_up

return line_up()
