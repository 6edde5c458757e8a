-- Pauses a lease, lets it be taken again, or tells whether it is paused.
--
-- KEYS[1] the lease   KEYS[2] its meta record; in its field paused 'since by why', a line each, while it is paused
-- ARGV[1] pause, resume or look   ARGV[2] who wants it   ARGV[3] why, or ''   ARGV[4] the channel to tell
-- Returns {'told', the pause that stands now, to a resume the one that stood, or '', 1 where this made it so, else 0,
--   the holder or '', ms left of its lease}
--
-- Invariant: only that field is touched. A pause ends no tenure, and its end is no permission: who has the lease, until
-- when, and what is waited out are as before. One that stands stays what it is, whoever asks for it again. Told is
-- everybody who waits and who holds: what they ask next is answered by it.
local meta = redis.call('HMGET', KEYS[2], 'paused', 'state', 'id', 'until')
local stands = meta[1]
local changed = false
if ARGV[1] == 'pause' and not stands then
  stands, changed = text(now) .. '\n' .. ARGV[2] .. '\n' .. ARGV[3], true
  redis.call('HSET', KEYS[2], 'paused', stands)
elseif ARGV[1] == 'resume' and stands then
  changed = true
  redis.call('HDEL', KEYS[2], 'paused')
end
if changed then
  redis.call('PUBLISH', ARGV[4], ARGV[1])
end
local holder, left = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
-- Somebody took its key away; it lives, and comes for it with its next refresh.
if not holder and meta[2] == 'held' and num(meta[4]) > now then
  holder, left = meta[3], num(meta[4]) - now
end
return {'told', stands or '', changed and '1' or '0', holder or '', text(math.max(0, left))}
