-- The message of a ticket will not run again.
--
-- ARGV[3] ticket  ARGV[4] '' for wherever it is, or the owner token of the run whose result is stored
-- ARGV[5] 0 to leave alone one that runs under a lease which lives

-- include records
-- include spread
-- include grant
-- include library
-- include tickets

local id = ARGV[3]
local known = redis.call('HMGET', ticket(id), 'task', 'broker', 'state', 'token')
if ARGV[4] ~= '' then
  if (known[3] == 'running' or known[3] == 'ended') and known[4] == ARGV[4] then
    local owed = is_owed(id, known[3], known[2])
    redis.call('DEL', LOCK .. ':runs:' .. ARGV[4]) -- its lease was adopted: no release of this token comes
    finish(id, known[2])
    if owed then
      index()
    end
  end
elseif known[1] and (ARGV[5] == '1' or known[3] ~= 'running' or tonumber(redis.call('ZSCORE', UNTIL, known[4]) or 0) <= now) then
  leave_line(id, known[1], known[2])
  drop(TICKET .. id)
  finish(id, known[2])
  index()
  wake() -- after: it may write down that this lock is due immediately
end
return 1
