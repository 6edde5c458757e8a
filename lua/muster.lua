-- Says that a node lives, or leaves, and who lives of those that contend for a lease.
--
-- KEYS[1] the lease   KEYS[2] its members, a hash: of each node 'until ttl valor stand word instance appoints scroll', where
--   stand is 1 where it would hold the lease, 0 where not and x where it has left, word the number of its latest word, instance
--   the agent that said it, and appoints a node or ''; and in /kept
--   'since last inc': since when the record goes on without a break, when it was last asked, by which incarnation
-- ARGV[1] the channel to tell   ARGV[2] the node   ARGV[3] its agent's instance, the same under all names that it ever has
-- ARGV[4] the number of its word: of one agent a later word has a greater one   ARGV[5] its ttl, ms, or '' where it leaves
-- ARGV[6] its valor   ARGV[7] 1 where it stands, else 0   ARGV[8] the node that people have moved the lease to, where it has
-- or had it, or ''   ARGV[9] its scroll
-- Returns {'mustered', the lease's holder or '', ms that the record goes on, then nine texts of each member: node, valor,
--   stand, word, instance, appoints, ttl, ms left, scroll} | {'failed', the key and what is wrong with it}
--
-- Invariant: nobody counts longer than its own ttl after its last word here, though the clock be set back, and what comes
-- after a later word of its agent under that name says nothing. An agent leaves for itself, not for another that has got the
-- name since. Others are told only of a change. Who is not in the record is known to be silent only where that has gone on for
-- a ttl: it may have been lost, or handed over, or the clock have been set ahead. Which names are one agent's is told, and
-- counted by whoever asks: it knows of other servers, too. A lease that would last longer than any member's is nobody's any
-- more: the clock was set back. Its holder may wait for another to ask for it, which puts that right, while the others wait for
-- the holder. Nothing here decides about the lease.
local holder, record = redis.pcall('GET', KEYS[1]), redis.pcall('HGETALL', KEYS[2])
for at, said in ipairs({holder, record}) do
  if type(said) == 'table' and said.err then
    return {'failed', KEYS[at] .. ': ' .. said.err}
  end
end

local me, instance, word, ttl = ARGV[2], ARGV[3], num(ARGV[4]), num(ARGV[5])
local members, over, changes, since, last, writer = {}, {}, {}, nil, nil, nil
for i = 1, #record, 2 do
  local name, text_of = record[i], record[i + 1]
  if name == '/kept' then
    since, last, writer = string.match(text_of, '^(%d+) (%d+) (%S+)$')
  else
    local ends, its, valor, stand, number, agent, appoints, scroll = string.match(text_of,
      '^(%d+) (%d+) (%d+) ([01x]) (%d+) (%x+) (%S*) (.*)$')
    -- What no agent wrote goes, too.
    if not ends or num(ends) <= now then
      over[#over + 1] = name
    else
      members[name] = {ends = num(ends), ttl = num(its), valor = valor, stand = stand, word = num(number),
        instance = agent, appoints = appoints, scroll = scroll}
      if num(ends) > now + num(its) then
        members[name].ends, changes[name] = now + num(its), true
      end
    end
  end
end

local mine, news = members[me], false
if mine and mine.instance ~= instance then
  -- Another agent had the name: the numbers of its words are of another clock.
  mine = nil
end
if not mine or mine.word <= word then
  if ARGV[5] ~= '' then
    news = not mine or mine.ttl ~= ttl or mine.valor ~= ARGV[6] or mine.stand ~= ARGV[7] or mine.appoints ~= ARGV[8]
      or mine.scroll ~= ARGV[9]
    members[me] = {ends = now + ttl, ttl = ttl, valor = ARGV[6], stand = ARGV[7], word = word, instance = instance,
      appoints = ARGV[8], scroll = ARGV[9]}
    changes[me] = true
  elseif mine and mine.stand ~= 'x' then
    news = true
    mine.ends, mine.stand, mine.word, changes[me] = now + mine.ttl, 'x', word, true
  end
end

-- Somebody speaks every third of a ttl: where nobody has for longer, the clock may have been set ahead.
since, last = num(since), num(last)
if writer ~= inc or since > now or last > now or 2 * (now - last) > ttl and ttl > 0 then
  since = now
end
local longest = 0
for _, member in pairs(members) do
  longest = math.max(longest, member.ends - now)
end
if longest > 0 then
  -- Before any other write: a server out of memory refuses HSET, but not after a PEXPIRE in the same script.
  local known = redis.call('PEXPIRE', KEYS[2], text(longest))
  redis.call('HSET', KEYS[2], '/kept', text(since) .. ' ' .. text(now) .. ' ' .. inc)
  for name in pairs(changes) do
    local member = members[name]
    redis.call('HSET', KEYS[2], name, table.concat({text(member.ends), text(member.ttl), member.valor, member.stand,
      text(member.word), member.instance, member.appoints, member.scroll}, ' '))
  end
  for _, name in ipairs(over) do
    if not members[name] then
      redis.call('HDEL', KEYS[2], name)
    end
  end
  if known == 0 then
    redis.call('PEXPIRE', KEYS[2], text(longest))
  end
end
if news then
  redis.call('PUBLISH', ARGV[1], me .. ' ' .. text(word))
end

local lasts = ttl
for _, member in pairs(members) do
  lasts = math.max(lasts, member.ttl)
end
if holder and redis.call('PTTL', KEYS[1]) > lasts then
  holder = nil
end

local words = {'mustered', holder or '', text(now - since)}
for name, member in pairs(members) do
  for _, said in ipairs({name, member.valor, member.stand, text(member.word), member.instance, member.appoints,
    text(member.ttl), text(member.ends - now), member.scroll}) do
    words[#words + 1] = said
  end
end
return words
