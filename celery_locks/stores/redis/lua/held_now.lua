-- How many permits are held now. Changes nothing. Needs records.
--
-- Of the expired ones that nobody passed over yet, it looks at 1000 at most: with more, it tells too many.
local function held_now()
  local known = redis.call('HMGET', LOCK, 'held', 'sole', 'terms')
  local held = tonumber(known[1] or 0)
  if held == 0 then
    return 0
  end
  if known[2] and known[2] ~= '' then
    return string.match(known[3], '^%d+') - now > 0 and held or 0
  end
  if redis.call('EXISTS', UNTIL) == 0 then -- without deadlines nobody holds: they were evicted, or ended
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
