-- The task of a ticket has ended without a run.
--
-- ARGV[3] ticket

-- include records
-- include spread
-- include grant
-- include library
-- include tickets

local task = redis.call('HGET', ticket(ARGV[3]), 'task')
if task then -- else it is done already
  leave_line(ARGV[3], task)
  drop(TICKET .. ARGV[3])
  finish(ARGV[3])
  index()
  wake() -- after: it may say that this lock is due at once
end
return 1
