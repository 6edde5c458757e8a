-- Claims a time of a schedule for the tenure that holds a lease.
--
-- KEYS[1] the lease   KEYS[2] its meta record   KEYS[3] what was claimed under it, a hash: of each watcher
--   'slot token node', the latest   KEYS[4] what became of the watcher's slots, a stream
-- ARGV[1] the token of the tenure   ARGV[2] the watcher   ARGV[3] the slot, seconds of the Unix epoch   ARGV[4] the node
-- ARGV[5] how many facts are kept, about
-- Returns {'claimed'} | {'taken', the node that claimed it or a later one} | {'over'} | {'unsure', why}
--
-- Invariant: of each watcher every slot is claimed by one tenure at most, and none that comes before a claimed one is
-- claimed any more. Only the tenure claims that holds the lease now, as this very incarnation of the server knows. Asked
-- again for the same slot it says the same again: an answer may be lost. A slot that is far from having come, by the
-- server's clock, is not claimed: a node whose clock is wrong would keep all others from what comes before it. What is
-- granted is told in the same step, so that no slot is gone without a trace.
local AHEAD = 60

local holder = redis.call('GET', KEYS[1])
local meta = redis.call('HMGET', KEYS[2], 'cur', 'id', 'inc', 'tok')
if not holder or not same(holder, meta[2]) or (meta[1] or meta[4]) ~= ARGV[1] then
  return {'over'}
end
if meta[3] ~= inc then
  return {'unsure', 'the server was restarted or promoted, and the lease was not refreshed since'}
end
local slot = num(ARGV[3])
if slot * 1000 > now + AHEAD * 1000 then
  return {'unsure', 'by the clock of the server that time is far from having come'}
end
local known, by, node = string.match(redis.call('HGET', KEYS[3], ARGV[2]) or '', '^(%d+) (%d+) (%S+)$')
if num(known) > slot or num(known) == slot and by ~= ARGV[1] then
  return {'taken', node}
end
if num(known) < slot then
  redis.call('HSET', KEYS[3], ARGV[2], text(slot) .. ' ' .. ARGV[1] .. ' ' .. ARGV[4])
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[5], '*', 'tok', ARGV[1], 'node', ARGV[4], 'at', text(now),
    'slack', '0', 'what', 'claimed', 'of', ARGV[2], 'slot', text(slot))
end
return {'claimed'}
