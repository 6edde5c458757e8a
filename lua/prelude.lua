-- Prelude of every script that decides about time: this file comes first, the script after it.
--
-- Gives: now  the server's clock, ms
--        inc  the server's incarnation: changes with a restart and with a failover, so that a script
--             can tell a record of this server's own from one it loaded or was handed
--        num  a field or argument as a number, 0 where it is absent
--        text a number as a text that loses no digit
--        same whether two texts name one owner, NODE:NONCE. Its nonce, 32 hex digits drawn at each taking, is who it
--             is; the name is for people, and another one when the node is renamed
-- Returns an error from a replica: a replica that lacks a key would say "not yours" of a lease that is.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then
  return redis.error_reply('REPLICA this server is a replica; leases are decided on the master')
end
local inc = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  .. ':' .. string.match(replication, 'master_replid:(%w+)')
local function num(value) return tonumber(value or '0') or 0 end
local function text(number) return string.format('%.0f', number) end
local function nonce(owner)
  local own = owner and string.match(owner, ':(%x+)$')
  return own and #own == 32 and own or owner
end
local function same(one, other) return nonce(one) == nonce(other) end
