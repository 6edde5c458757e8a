-- Declares a lease that nobody ever held to be free, so that its first taking need not wait one ttl.
--
-- KEYS[1] the lease   KEYS[2] its meta record
-- ARGV[1] the channel to tell
-- Returns {'free'} | {'known', state}
--
-- Invariant: touches only a lease without a past: no key, and no record but the quarantine of a first question.
-- It is the operator's word that no holder lives; a record with a token is the trace of one, and is left alone.
local meta = redis.call('HMGET', KEYS[2], 'state', 'tok')
if redis.call('EXISTS', KEYS[1]) == 1 or meta[2] or (meta[1] and meta[1] ~= 'quarantine') then
  return {'known', meta[1] or 'held'}
end
redis.call('HSET', KEYS[2], 'state', 'free', 'until', text(now), 'inc', inc)
redis.call('PUBLISH', ARGV[1], '')
return {'free'}
