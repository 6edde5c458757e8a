-- Keeps a lease, and restores it where the server lost it.
--
-- KEYS[1] the lease   KEYS[2] its meta record
-- ARGV[1] the owner   ARGV[2] its ttl, ms   ARGV[3] its token
-- Returns {'granted', token} | {'lost', owner that has it, or ''}
--
-- Invariant: only the owner's own lease is prolonged. An absent one is re-asserted only where nobody else can
-- have had it since: the record names this owner and was not freed, or it has not seen this token. Tokens grow with
-- each taking, so such a record is older than this one: lost and begun anew, or loaded or handed over from before.
-- The caller asks only before its own deadline, and ignores an answer that comes after it.
local owner, ttl, token = ARGV[1], num(ARGV[2]), num(ARGV[3])
local holder = redis.call('GET', KEYS[1])
-- Not even an older owner's key is overwritten: were the clock set back and the data lost, a late question would
-- take a newer owner for an older one. The child stops, which costs seconds; two would cost data.
if holder and holder ~= owner then
  return {'lost', holder}
end
if holder then
  -- First, and alone: a server out of memory refuses HSET, but not after a PEXPIRE in the same script.
  redis.call('PEXPIRE', KEYS[1], ttl)
else
  local meta = redis.call('HMGET', KEYS[2], 'state', 'id', 'tok')
  local ours = num(meta[3]) < token or (meta[1] == 'held' and meta[2] == owner)
  if not ours then
    return {'lost', ''}
  end
  redis.call('SET', KEYS[1], owner, 'PX', ttl)
end
redis.call('HSET', KEYS[2], 'state', 'held', 'id', owner, 'until', text(now + ttl), 'tok', text(token), 'inc', inc,
  'ttl', text(ttl))
return {'granted', text(token)}
