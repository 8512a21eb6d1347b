-- The locks in which something is due; for none to name, the microseconds until something is, or -1 for nothing.
--
-- KEYS[1] sorted set: lock -> when something is due in it, in microseconds of the server's clock  ARGV[1] most to name
-- include clock
if ARGV[1] == '0' then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
  return first and math.max(0, first - now) or -1
end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
