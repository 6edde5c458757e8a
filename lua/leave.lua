-- Says that a node has left, so that nobody waits for it.
--
-- KEYS[1] the node's row
-- ARGV[1] the agent's instance
-- Returns {'left'} | {'other'} where the row is not this agent's (any more)
--
-- Invariant: only an agent's own row is changed; it still expires when it would have.
if redis.call('HGET', KEYS[1], 'instance') ~= ARGV[1] then
  return {'other'}
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
redis.call('HSET', KEYS[1], 'seen', string.format('%.0f', now), 'state', 'gone')
return {'left'}
