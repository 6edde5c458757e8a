-- Keeps a fact about a tenure, or about a slot of a schedule that went by it.
--
-- KEYS[1] the history of the lease, or what became of the schedule's slots, a stream   KEYS[2] the lease's meta record
-- ARGV[1] the token of the tenure   ARGV[2] how many facts are kept, about   ARGV[3] on: the fact's fields and values
-- Returns {'recorded', the entry's id}
--
-- Invariant: the stream is bounded, and each entry is complete: what the store knew of the tenure before goes into the
-- same entry, and only where it is of this token that `take.lua` wrote it down.
local entry = {'tok', ARGV[1]}
for at = 3, #ARGV do
  entry[#entry + 1] = ARGV[at]
end
local meta = redis.call('HMGET', KEYS[2], 'cur', 'was_id', 'was_tok', 'was_seen', 'was_left')
if meta[1] == ARGV[1] and meta[2] then
  for at, name in ipairs({'was_id', 'was_tok', 'was_seen', 'was_left'}) do
    entry[#entry + 1] = name
    entry[#entry + 1] = meta[at + 1] or ''
  end
end
return {'recorded', redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', unpack(entry))}
