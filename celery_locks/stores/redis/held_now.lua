-- How many permits are held now. Changes nothing.
--
-- Of the expired ones that nobody passed over yet, it looks at 1000 at most: with more, it tells too many.
local function held_now()
  local held = tonumber(redis.call('HGET', LOCK, 'held') or 0)
  if held == 0 or redis.call('EXISTS', UNTIL) == 0 then -- without deadlines nobody holds: they were evicted, or ended
    return 0
  end
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', UNTIL, '-inf', now, 'LIMIT', 0, 1000)) do
    local record = redis.call('HGET', LOCK, gone)
    if record then
      held = held - string.match(record, '^%d+')
    end
  end
  return held
end
