-- Says whether the tenure under a token is the one that holds a lease now.
--
-- KEYS[1] the lease   KEYS[2] its meta record
-- ARGV[1] the token
-- Returns {'holds', ms left} | {'over', the holder or '', the latest token or ''} | {'unsure', why}
--
-- Invariant: changes nothing, and says 'holds' only of what this very incarnation of the server granted or refreshed:
-- a record that it loaded or was handed may be older than a holder unknown to it.
local holder = redis.call('GET', KEYS[1])
local meta = redis.call('HMGET', KEYS[2], 'cur', 'id', 'inc', 'tok')
local latest = meta[1] or meta[4]
if not holder then
  return {'over', '', latest or ''}
end
if not same(holder, meta[2]) then
  return {'over', holder, ''}
end
if meta[3] ~= inc then
  return {'unsure', 'the server was restarted or promoted, and the holder has not refreshed its lease since'}
end
if latest == ARGV[1] then
  return {'holds', text(redis.call('PTTL', KEYS[1]))}
end
return {'over', holder, latest}
