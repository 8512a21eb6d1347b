-- How many stand in line.
return redis.call('ZCOUNT', LOCK .. ':alive', string.format('(%.0f', now), '+inf')
