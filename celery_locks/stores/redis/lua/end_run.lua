-- Releases the lease of a run, settles the ticket that ran under it, and dispatches the tickets whose turn it is then.
--
-- ARGV[3] how the run ended: 'final', 'stored', 'rejected' or 'again'  ARGV[4] broker whose tickets are dispatched
-- ARGV[5] value to keep with the lock  ARGV[6] for how long; without a value both are missing  and 'repeat', see prelude
-- Returns {1 when this request released a lease whose deadline had not passed, or can't know, else 0; ticket, message,
-- count; …}, or that number alone when there was no ticket and no line

local REPEAT, value, keep_value = ARGV[#ARGV] == 'repeat', ARGV[5], ARGV[6]

-- include release_sole
-- include give_back

local released, lined = give_back()
local id = redis.call('GETDEL', LOCK .. ':runs:' .. token)
if id or lined then
  -- include grant
  -- include library
  -- include tickets
  if id then
    end_run(id, ARGV[3])
  end
  tidy()
  local answer = {released}
  dispatch_or_wake(answer, ARGV[4])
  index()
  return answer
end
return released
