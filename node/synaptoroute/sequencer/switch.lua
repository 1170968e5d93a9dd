#!lua
-- Append one entry directly after its writer's position, such as the one that changes the encoder.
--
-- KEYS  meta, log:<epoch>
-- ARGV  epoch, writer's seq, writer's chain, fingerprint before, level, channel,
--       fingerprint after, dim after, digest, header, body, name ('' for none)
-- Returns {'OK', seq}, or the name of an outcome and its detail; {'MOVED', seq} if another write
-- came first: then the writer checks again what it decided from its position.  With a name,
-- entries may come first whose frames do not contain the name.
--
-- Entries after this one carry vectors of the other encoder, so the header changes in the same
-- step.  The entry is only announced on the bus: it is rare and must be read from the log.
-- The first write may be refused, and then it is undone.
local replid = replication()
local m, why = header(KEYS[1])
if not m then return {'LOST', why} end
if m.replid ~= replid then return {'NEWHIST'} end
if m.state ~= 'open' then return {'CLOSED', m.state} end
if m.epoch ~= ARGV[1] then return {'STALE', m.epoch} end
if m.fingerprint ~= ARGV[4] then return {'MODEL', m.fingerprint} end
if tonumber(m.level) < tonumber(ARGV[5]) then return {'LEVEL', m.level} end
local seq, mine = tonumber(m.seq), tonumber(ARGV[2])
if mine > seq or (mine == seq and ARGV[3] ~= m.chain) then return {'REGRESSED', m.seq} end
if mine < seq then
  if ARGV[12] == '' or seq - mine > 256 then return {'MOVED', m.seq} end
  local later = read('XRANGE', KEYS[2], '(' .. m.epoch .. '-' .. ARGV[2], '+', 'COUNT', 256) or {}
  if #later ~= seq - mine then return {'MOVED', m.seq} end
  for _, entry in ipairs(later) do
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'f' and string.find(entry[2][i + 1], ARGV[12], 1, true) then
        return {'MOVED', m.seq}
      end
    end
  end
end

local epoch, place = m.epoch, exact(seq + 1)
local time_us = exact(now_us())
local chain = redis.sha1hex(m.chain .. '|' .. epoch .. '|' .. place .. '|' .. ARGV[9])
local bytes = exact(tonumber(m.bytes) + #ARGV[11])
local head = redis.pcall('HSET', KEYS[1], 'seq', place, 'chain', chain, 'bytes', bytes,
  'fingerprint', ARGV[7], 'dim', ARGV[8])
if type(head) == 'table' and head.err then return {'REFUSED', head.err} end
local added = redis.pcall('XADD', KEYS[2], epoch .. '-' .. place,
  't', time_us, 'p', m.chain, 'c', chain, 'b', bytes, 'f', ARGV[11])
if type(added) == 'table' and added.err then
  redis.call('HSET', KEYS[1], 'seq', m.seq, 'chain', m.chain, 'bytes', m.bytes,
    'fingerprint', m.fingerprint, 'dim', m.dim)
  return {'REFUSED', added.err}
end
redis.pcall('PUBLISH', ARGV[6], 'SR1 P ' .. epoch .. ' ' .. place .. ' ' .. m.chain .. ' ' .. chain
  .. ' ' .. time_us .. ' ' .. #ARGV[10] .. '\n' .. ARGV[10])
return {'OK', place}
