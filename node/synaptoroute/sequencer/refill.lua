#!lua
-- Add entries to the stream that becomes the next epoch's log.
--
-- KEYS  meta, refill, lease:<name>
-- ARGV  'token:owner' of the lease, ballot, '1' to start over, bytes added before,
--       then (epoch, seq, time_us, chain before, chain, body) for each entry
-- Returns {'OK', bytes added}, {'FENCED'} (the lease is not ours any more), {'LOST'},
-- {'SUPERSEDED', state}, {'RESTARTED'} or {'REFUSED', why}.
-- Readers never use this stream, so an abandoned refill does no harm.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return {'FENCED'} end
local info = redis.pcall('INFO', 'replication')
local replid = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or '-'
local m = redis.call('HMGET', KEYS[1], 'state', 'rec_id', 'rec_replid')
if not m[1] then return {'LOST'} end
if m[1] ~= 'recovering' or m[2] ~= ARGV[2] then return {'SUPERSEDED', m[1]} end
if m[3] ~= replid then return {'RESTARTED'} end
if ARGV[3] == '1' then redis.call('DEL', KEYS[2]) end
local bytes = tonumber(ARGV[4])
for i = 5, #ARGV, 6 do
  bytes = bytes + #ARGV[i + 5]
  local added = redis.pcall('XADD', KEYS[2], ARGV[i] .. '-' .. ARGV[i + 1], 't', ARGV[i + 2],
    'p', ARGV[i + 3], 'c', ARGV[i + 4], 'b', string.format('%.0f', bytes), 'f', ARGV[i + 5])
  if type(added) == 'table' and added.err then return {'REFUSED', added.err} end
end
return {'OK', string.format('%.0f', bytes)}
