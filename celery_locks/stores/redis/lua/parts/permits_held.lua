-- Counts the permits that are held now. Changes nothing. Needs lock_keys.
--
-- Expired leases that are not removed yet are subtracted, 1000 at most: with more of them the count is too high.

local function permits_held()
  local known = redis.call('HMGET', LOCK, 'held', 'sole', 'terms')
  local held = tonumber(known[1] or 0)
  if held == 0 then
    return 0
  end
  if known[2] and known[2] ~= '' then
    return string.match(known[3], '^%d+') - now > 0 and held or 0
  end
  if redis.call('EXISTS', UNTIL) == 0 then -- there are no deadlines: they have ended, or were evicted
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
