-- Lists the nodes of a cluster.
--
-- KEYS[1] the set of all names
-- ARGV[1] what stands before a name in the key of its row (same slot)
-- Returns a flat list, four texts to a node: name, ms since it was heard of, its state, what it says of itself
--
-- Invariant: changes nothing but to forget names whose row has expired.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local rows = {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local row = redis.call('HMGET', ARGV[1] .. name, 'seen', 'state', 'about')
  if row[1] then
    local age = math.max(0, now - (tonumber(row[1]) or 0))
    for _, word in ipairs({name, string.format('%.0f', age), row[2] or '', row[3] or ''}) do
      rows[#rows + 1] = word
    end
  else
    redis.call('ZREM', KEYS[1], name)
  end
end
return rows
