-- Lets a script write on a server whose memory is full (`noeviction`). The server then refuses commands that may take memory,
-- unless the script has written before. So the first write must be one that takes none: this one changes nothing. Most
-- scripts don't need this line, since they begin with a ZREM, HDEL, DEL or PEXPIREAT.
redis.call('HDEL', LOCK, '')
