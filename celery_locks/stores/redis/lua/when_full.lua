-- Lets a script write on a server whose memory is full (`noeviction`). There the server refuses a command that may take
-- memory, unless the script wrote before. So the first write is one that takes none: this one changes nothing. Most
-- scripts need no such line, since they begin with a ZREM, HDEL, DEL or PEXPIREAT of their own.
redis.call('HDEL', LOCK, '')
