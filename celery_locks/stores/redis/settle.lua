-- The task of a ticket has ended without a run.
--
-- ARGV[3] ticket

-- include grant
-- include library
-- include tickets

if redis.call('EXISTS', ticket(ARGV[3])) == 1 then
  finish(ARGV[3])
  wake()
  index()
end
return 1
