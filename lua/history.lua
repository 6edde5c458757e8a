-- Reads what is kept of a lease's tenures, or of a schedule's slots, and the clock by which it is measured.
--
-- KEYS[1] the history of the lease, or what became of the slots, a stream
-- ARGV[1] how many facts at most, the latest first; 0: none, for who only asks what time it is
-- Returns {now in ms, then of each entry: how many texts follow, its fields and values}
--
-- Invariant: changes nothing.
local words = {text(now)}
if num(ARGV[1]) > 0 then
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[1])) do
    words[#words + 1] = text(#entry[2])
    for _, word in ipairs(entry[2]) do
      words[#words + 1] = word
    end
  end
end
return words
