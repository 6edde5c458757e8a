-- Keeps leases, and restores those that the server lost. Each of them is decided by itself.
--
-- KEYS[1] a lease   KEYS[2] its meta record   and so on: two keys to each lease
-- ARGV[1] its owner   ARGV[2] its ttl, ms   ARGV[3] its token   and so on: three arguments to each
-- Returns for each: 'granted', token, the pause or '' | 'lost', owner that has it, or '', '' | 'failed', why, ''
--
-- Invariant: only the owner's own lease is prolonged. An absent one is re-asserted only where nobody else can
-- have had it since: the record names this owner and was not freed, or it has not seen this token. Tokens grow with
-- each taking, so such a record is older than this one: lost and begun anew, or loaded or handed over from before.
-- An owner whose release is on record gets nothing more: what it asked before may come after.
-- An owner that comes with another name than it had was renamed: lease and record bear the new one from then on, token
-- and end are what they would have been, and who waits is woken so as to hear of it.
-- A pause is told and takes nothing away: under what is granted the child ends in good order.
-- The caller asks only before its own deadline, and ignores an answer that comes after it.
local function refresh(lease, record, owner, ttl, token)
  local holder = redis.call('GET', lease)
  -- Not even an older owner's key is overwritten: were the clock set back and the data lost, a late question would
  -- take a newer owner for an older one. The child stops, which costs seconds; two would cost data.
  if holder and not same(holder, owner) then
    return 'lost', holder
  end
  if holder then
    -- Before any other write: a server out of memory refuses HSET, but not after a PEXPIRE in the same script.
    redis.call('PEXPIRE', lease, ttl)
    if holder ~= owner then
      redis.call('SET', lease, owner, 'PX', ttl)
      redis.call('PUBLISH', (string.gsub(record, ':meta$', ':free')), '')
    end
  end
  local meta = redis.call('HMGET', record, 'state', 'id', 'tok', 'paused')
  local known, mine = num(meta[3]), same(meta[2], owner)
  if not holder then
    local ours = mine and meta[1] == 'held' or not mine and known < token
    if not ours then
      return 'lost', ''
    end
    redis.call('SET', lease, owner, 'PX', ttl)
    if not mine then
      redis.call('HDEL', record, 'void', 'was_id', 'was_tok', 'was_seen', 'was_left')
    end
  end
  -- One of several servers may have drawn a greater token at the taking, and the next is to be greater still.
  redis.call('HSET', record, 'state', 'held', 'id', owner, 'cur', text(token), 'until', text(now + ttl),
    'tok', text(math.max(known, token)), 'inc', inc, 'ttl', text(ttl))
  return 'granted', text(token), meta[4]
end

local answers = {}
for i = 1, #KEYS / 2 do
  -- What somebody did to one lease's keys is no fault of the others.
  local whole, word, said, paused =
    pcall(refresh, KEYS[2 * i - 1], KEYS[2 * i], ARGV[3 * i - 2], num(ARGV[3 * i - 1]), num(ARGV[3 * i]))
  if not whole then
    word, said = 'failed', type(word) == 'table' and word.err or tostring(word)
  end
  answers[3 * i - 2], answers[3 * i - 1], answers[3 * i] = word, said, paused or ''
end
return answers
