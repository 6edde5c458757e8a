-- Frees a lease and says so.
--
-- KEYS[1] the lease   KEYS[2] its meta record
-- ARGV[1] the owner   ARGV[2] the node it is kept for, or ''   ARGV[3] for how long, ms
-- ARGV[4] the channel to tell, or '' where this was a vote that led to nothing: it was no tenure, and nobody is woken
-- Returns {'released'}, also where it was not the owner's to free: then nothing changed.
--
-- Invariant: called only after the child's whole tree is gone. After a failover that this owner has not yet
-- refreshed on, the record may be older than a holder unknown to this server: then it is quarantined, not freed.
if not same(redis.call('GET', KEYS[1]), ARGV[1]) then
  return {'released'}
end
redis.call('DEL', KEYS[1])
if ARGV[4] == '' then
  redis.call('HSET', KEYS[2], 'void', '1')
end
local meta = redis.call('HMGET', KEYS[2], 'inc', 'ttl')
if meta[1] ~= inc then
  redis.call('HSET', KEYS[2], 'state', 'quarantine', 'until', text(now + num(meta[2])), 'inc', inc)
  return {'released'}
end
redis.call('HSET', KEYS[2], 'state', 'free', 'until', text(now))
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[2], 'to', 'reserved')
else
  redis.call('HSET', KEYS[2], 'to', ARGV[2], 'reserved', text(now + num(ARGV[3])))
end
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[4], ARGV[1])
end
return {'released'}
