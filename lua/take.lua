-- Takes a lease, if it may be taken.
--
-- KEYS[1] the lease   KEYS[2] its meta record (no expiry): state id cur until tok inc ttl to reserved, where
--   tok is the greatest token ever drawn here, cur that of the tenure; and for the history
--   was_id was_tok was_seen was_left: the tenure before; seen pushed: when a holder was last heard of before `until` was
--   put off to `pushed`; void: the last taking was given back before it was a tenure; paused: see pause.lua
-- ARGV[1] the owner   ARGV[2] its ttl, ms   ARGV[3] the longest ttl known of any node, ms   ARGV[4] the node
-- ARGV[5] how long ago, by its own clock, the node saw another hold the lease, ms, or ''
-- Returns {'granted', token} | {'held', owner, ms left, ttl ms} | {'quarantined', ms left}
--       | {'reserved', node, ms left} | {'lost', ''} where this owner has freed it before
--       | {'paused', the pause} where it would be granted otherwise
--
-- Invariant: absence of the lease is never permission. It is granted only on an explicit 'free', or on a
-- recorded end that has passed, either written by this very incarnation of the server. Otherwise one ttl
-- is waited out, in which a living holder's next refresh re-asserts the lease. Another program's value is a holder like
-- any other, and so is its end. Nothing is waited for longer than the
-- longest ttl, though the clock be set back: no end lies further ahead than that. No owner has two tenures: a question
-- that comes after its owner's release is too late. Nobody is granted it while it is paused, not even the same again.
local owner, ttl = ARGV[1], num(ARGV[2])
local meta = redis.call('HMGET', KEYS[2], 'state', 'until', 'tok', 'inc', 'ttl', 'to', 'reserved', 'id', 'seen', 'pushed',
  'cur', 'void', 'paused')
local state, ends, token, seen, to, reserved = meta[1], num(meta[2]), num(meta[3]), meta[4], meta[6], num(meta[7])
local longest = math.max(ttl, num(ARGV[3]), num(meta[5]))
-- When the last holder was heard of: it released then, or its last refresh was confirmed.
local heard = meta[2] == meta[10] and num(meta[9]) or state == 'free' and ends or ends - num(meta[5])

local holder = redis.call('GET', KEYS[1])
if holder and not same(holder, owner) then
  local left = redis.call('PTTL', KEYS[1])
  -- It would end later than any grant does: the clock was set back. A living holder's refresh says so anew.
  if left > longest and same(holder, meta[8]) then
    redis.call('PEXPIRE', KEYS[1], longest)
    redis.call('HSET', KEYS[2], 'until', text(now + longest))
  end
  -- What no agent wrote may stand there for longer, and is looked at again all the same.
  if left < 0 or left > longest then left = longest end
  -- Another program has it, or an agent that the record does not know: it ends then, and not where the key is gone before.
  if not same(holder, meta[8]) then
    local till = now + (seen == inc and left or longest)
    if state ~= 'held' or seen ~= inc or ends < till then ends = till end
    redis.call('HSET', KEYS[2], 'state', 'quarantine', 'until', text(ends), 'inc', inc, 'ttl', text(longest),
      'seen', text(heard), 'pushed', text(ends))
  end
  return {'held', holder, text(left), text(num(meta[5]))}
end

if not holder then
  if not state then
    redis.call('HSET', KEYS[2], 'state', 'quarantine', 'until', text(now + longest), 'inc', inc, 'ttl', text(longest))
    return {'quarantined', text(longest)}
  end
  if state == 'free' and same(meta[8], owner) then
    return {'lost', ''}
  end
  if seen ~= inc then
    ends = now + longest
    redis.call('HSET', KEYS[2], 'state', state == 'free' and 'quarantine' or state, 'until', text(ends), 'inc', inc,
      'ttl', text(longest), 'seen', text(heard), 'pushed', text(ends))
    return {'quarantined', text(ends - now)}
  end
  if ends > now + longest then
    ends = now + longest
    redis.call('HSET', KEYS[2], 'until', text(ends))
  end
  if state ~= 'free' and now < ends then
    return {'quarantined', text(ends - now)}
  end
  -- Who saw it held saw an end that was to come. It cannot have passed by longer than that ago, unless the clock was set
  -- ahead; then its holder may well live, and has not refreshed it since.
  if state ~= 'free' and ARGV[5] ~= '' and now - ends > num(ARGV[5]) + ttl / 3 then
    redis.call('HSET', KEYS[2], 'until', text(now + longest))
    return {'quarantined', text(longest)}
  end
  -- Only from the release on: what a quarantine came after is kept for nobody.
  if state == 'free' and to and to ~= ARGV[4] and ends <= now and now < reserved then
    return {'reserved', to, text(reserved - now)}
  end
end

if meta[13] then
  return {'paused', meta[13]}
end

-- A question asked again whose first answer was lost is granted again, under the same token.
if not holder or not state then
  if meta[8] and not meta[12] then
    redis.call('HSET', KEYS[2], 'was_id', meta[8], 'was_tok', meta[11] or text(token), 'was_seen', text(heard),
      'was_left', state == 'free' and 'released' or 'expired')
  end
  token = math.max(token + 1, now)
end
redis.call('SET', KEYS[1], owner, 'PX', ttl)
redis.call('HSET', KEYS[2], 'state', 'held', 'id', owner, 'cur', text(token), 'until', text(now + ttl), 'tok', text(token),
  'inc', inc, 'ttl', text(ttl))
redis.call('HDEL', KEYS[2], 'to', 'reserved', 'void')
return {'granted', text(token)}
