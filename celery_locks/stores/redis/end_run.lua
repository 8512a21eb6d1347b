-- Releases the lease of a run, settles the ticket that ran under it, and dispatches the tickets whose turn it is then.
--
-- ARGV[3] a name for this request: repeated after a lost reply, it gets the same answer
-- ARGV[4] how the run ended: 'final', 'stored' or 'again'  ARGV[5] broker whose tickets are dispatched
-- Returns {1 when this request released a lease whose deadline had not passed, else 0; ticket, message, count; …}, or that
-- number alone when there was no ticket and no line

-- include release_sole
-- include give_back

local released, lined = give_back()
local id = redis.call('GETDEL', LOCK .. ':runs:' .. token)
if id or lined then
  -- include grant
  -- include library
  -- include tickets
  if id then
    end_run(id, ARGV[4])
  end
  tidy()
  local answer = {released}
  dispatch_or_wake(answer, ARGV[5])
  index()
  return answer
end
return released
