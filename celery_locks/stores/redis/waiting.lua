-- How many stand in line.
return redis.call('ZCOUNT', ALIVE, string.format('(%.0f', now), '+inf')
