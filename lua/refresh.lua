-- Keeps a lease, and restores it where the server lost it.
--
-- KEYS[1] the lease   KEYS[2] its meta record
-- ARGV[1] the owner   ARGV[2] its ttl, ms   ARGV[3] its token
-- Returns {'granted', token} | {'lost', owner that has it, or ''}
--
-- Invariant: a lease that is not there, or is another's, is re-asserted only where nobody can have had it since. Tokens
-- tell: each taking draws a higher one, so a record with a lower token is older than this tenure (the server lost
-- data, or is a replica that never saw it), and one with this token is this tenure's own unless it was freed.
-- The caller asks only before its own deadline, and ignores an answer that comes after it.
local owner, ttl, token = ARGV[1], num(ARGV[2]), num(ARGV[3])
local holder = redis.call('GET', KEYS[1])
if holder == owner then
  -- First, and alone: a server out of memory refuses HSET, but not after a PEXPIRE in the same script.
  redis.call('PEXPIRE', KEYS[1], ttl)
else
  local meta = redis.call('HMGET', KEYS[2], 'state', 'tok')
  local state, seen = meta[1], num(meta[2])
  local older = seen < token
  local ours = seen == token and state == 'held' and not holder
  if not (older or ours) then
    return {'lost', holder or ''}
  end
  redis.call('SET', KEYS[1], owner, 'PX', ttl)
end
redis.call('HSET', KEYS[2], 'state', 'held', 'id', owner, 'until', text(now + ttl), 'tok', text(token), 'inc', inc,
  'ttl', text(ttl))
return {'granted', text(token)}
