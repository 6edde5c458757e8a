-- Says that a node is there, unless another agent with its name said so lately.
--
-- KEYS[1] the node's row: instance seen state about listed   KEYS[2] the set of all names
-- KEYS[3] where the node has been called something else: the row under its other name
-- ARGV[1] the agent's instance   ARGV[2] the node   ARGV[3] its state   ARGV[4] what it says of itself
-- ARGV[5] how long a beat counts, ms   ARGV[6] how long a row lives, ms   ARGV[7] the other name, with KEYS[3]
-- Returns {'beaten'} | {'taken', what the other agent says of itself}
--
-- Invariant: of two agents with one name, the one that beats keeps it. Times are the server's. A renamed agent has one
-- row: the other one goes in the moment in which this one comes, unless it is another agent's by now.
-- Runs every two seconds on every node, so it stays small: the name is listed anew once a minute only.
local function text(number) return string.format('%.0f', number) end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local row = redis.call('HMGET', KEYS[1], 'instance', 'seen', 'state', 'about', 'listed')
local instance, seen, listed = row[1], tonumber(row[2] or '0') or 0, tonumber(row[5] or '0') or 0

-- Also where the clock was set back, but then not for ever.
if instance and instance ~= ARGV[1] and row[3] ~= 'gone' and math.abs(now - seen) < tonumber(ARGV[5]) then
  return {'taken', row[4] or ''}
end
-- First: a server out of memory refuses HSET, but not after a PEXPIRE in the same script.
redis.call('PEXPIRE', KEYS[1], ARGV[6])
if instance == ARGV[1] and math.abs(now - listed) < 60000 then
  redis.call('HSET', KEYS[1], 'seen', text(now), 'state', ARGV[3], 'about', ARGV[4])
else
  redis.call('HSET', KEYS[1], 'instance', ARGV[1], 'seen', text(now), 'state', ARGV[3], 'about', ARGV[4],
    'listed', text(now))
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
  redis.call('ZADD', KEYS[2], text(now), ARGV[2])
  redis.call('PEXPIRE', KEYS[2], text(2 * tonumber(ARGV[6])))
end
if KEYS[3] and redis.call('HGET', KEYS[3], 'instance') == ARGV[1] then
  redis.call('DEL', KEYS[3])
  redis.call('ZREM', KEYS[2], ARGV[7])
end
return {'beaten'}
