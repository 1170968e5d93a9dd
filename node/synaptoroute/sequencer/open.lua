#!lua
-- Found the log of an empty namespace: epoch 1 with its first entry.
--
-- KEYS  meta, log:1, pos:1, nodes
-- ARGV  lineage, epoch_id, fingerprint, dim, level, voters, channel, digest, body
-- Returns {'OK', chain, time_us}; {'EXISTS', epoch, epoch_id} if there is a log already (another
-- founder was first, or an answer to this one was lost); or {'REMNANTS', what} if something is
-- left of a lost log: that needs a recovery, never a founding.
local m, why = header(KEYS[1])
if m then return {'EXISTS', m.epoch, m.epoch_id} end
if why ~= '' then return {'REMNANTS', why} end
for i = 1, 3 do
  if redis.call('EXISTS', KEYS[i]) == 1 then return {'REMNANTS', KEYS[i]} end
end
for _, row in ipairs(read('HVALS', KEYS[4]) or {}) do
  local sound, node = pcall(cjson.decode, row)
  if sound and type(node) == 'table' and (tonumber(node.seq) or 0) > 0 then
    local id = tostring(node.node_id)
    return {'REMNANTS', 'node ' .. (is_name(id) and id or '?')}
  end
end
local replid = replication()
local time_us = exact(now_us())
local start = string.rep('0', 40)
local chain = redis.sha1hex(start .. '|1|1|' .. ARGV[8])
local bytes = tostring(#ARGV[9])

local added = redis.pcall('XADD', KEYS[2], '1-1',
  't', time_us, 'p', start, 'c', chain, 'b', bytes, 'f', ARGV[9])
if type(added) == 'table' and added.err then return {'REFUSED', added.err} end
redis.call('HSET', KEYS[1], 'lineage', ARGV[1], 'epoch', '1', 'epoch_id', ARGV[2], 'seq', '1',
  'chain', chain, 'state', 'open', 'replid', replid, 'rec_id', '',
  'rec_replid', '', 'rec_cause', '',
  'fingerprint', ARGV[3], 'dim', ARGV[4], 'level', ARGV[5], 'floor', '1', 'floor_chain', start,
  'floor_bytes', '0', 'bytes', bytes, 'voters', ARGV[6], 'voters_seq', '1')
redis.pcall('PUBLISH', ARGV[7], 'SR1 E 1 1 ' .. start .. ' ' .. chain .. ' ' .. time_us .. ' '
  .. #ARGV[9] .. '\n' .. ARGV[9])
return {'OK', chain, time_us}
