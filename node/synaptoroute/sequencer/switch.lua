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
local info = redis.pcall('INFO', 'replication')
local replid = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or '-'
local m = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'chain', 'state', 'replid',
  'fingerprint', 'level', 'bytes', 'dim')
for i = 1, 9 do
  if not m[i] then return {'LOST'} end
end
if m[5] ~= replid then return {'NEWHIST'} end
if m[4] ~= 'open' then return {'CLOSED', m[4]} end
if m[1] ~= ARGV[1] then return {'STALE', m[1]} end
if m[6] ~= ARGV[4] then return {'MODEL', m[6]} end
if tonumber(m[7]) < tonumber(ARGV[5]) then return {'LEVEL', m[7]} end
local seq, mine = tonumber(m[2]), tonumber(ARGV[2])
if mine > seq or (mine == seq and ARGV[3] ~= m[3]) then return {'REGRESSED', m[2]} end
if mine < seq then
  if ARGV[12] == '' or seq - mine > 256 then return {'MOVED', m[2]} end
  local later = redis.call('XRANGE', KEYS[2], '(' .. m[1] .. '-' .. ARGV[2], '+', 'COUNT', 256)
  if #later ~= seq - mine then return {'MOVED', m[2]} end
  for _, entry in ipairs(later) do
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'f' and string.find(entry[2][i + 1], ARGV[12], 1, true) then
        return {'MOVED', m[2]}
      end
    end
  end
end

local function exact(number) return string.format('%.0f', number) end

local epoch, place = m[1], exact(seq + 1)
local time = redis.call('TIME')
local time_us = exact(tonumber(time[1]) * 1000000 + tonumber(time[2]))
local chain = redis.sha1hex(m[3] .. '|' .. epoch .. '|' .. place .. '|' .. ARGV[9])
local bytes = exact(tonumber(m[8]) + #ARGV[11])
local head = redis.pcall('HSET', KEYS[1], 'seq', place, 'chain', chain, 'bytes', bytes,
  'fingerprint', ARGV[7], 'dim', ARGV[8])
if type(head) == 'table' and head.err then return {'REFUSED', head.err} end
local added = redis.pcall('XADD', KEYS[2], epoch .. '-' .. place,
  't', time_us, 'p', m[3], 'c', chain, 'b', bytes, 'f', ARGV[11])
if type(added) == 'table' and added.err then
  redis.call('HSET', KEYS[1], 'seq', m[2], 'chain', m[3], 'bytes', m[8],
    'fingerprint', m[6], 'dim', m[9])
  return {'REFUSED', added.err}
end
redis.pcall('PUBLISH', ARGV[6], 'SR1 P ' .. epoch .. ' ' .. place .. ' ' .. m[3] .. ' ' .. chain
  .. ' ' .. time_us .. ' ' .. #ARGV[10] .. '\n' .. ARGV[10])
return {'OK', place}
