#!lua
-- Add entries to the stream that becomes the next epoch's log.
--
-- KEYS  meta, refill, lease:<name>
-- ARGV  'token:owner' of the lease, ballot, '1' to start over, bytes added before,
--       then (epoch, seq, time_us, chain before, chain, body) for each entry
-- Returns {'OK', bytes added}, {'FENCED'} (the lease is not ours any more), {'LOST'},
-- {'SUPERSEDED', state}, {'RESTARTED'} or {'REFUSED', why}.
-- Readers never use this stream, so an abandoned refill does no harm.
if read('GET', KEYS[3]) ~= ARGV[1] then return {'FENCED'} end
local replid = replication()
local m, why = header(KEYS[1])
if not m then return {'LOST', why} end
if m.state ~= 'recovering' or m.rec_id ~= ARGV[2] then return {'SUPERSEDED', m.state} end
if m.rec_replid ~= replid then return {'RESTARTED'} end
if ARGV[3] == '1' then redis.call('DEL', KEYS[2]) end
local bytes = tonumber(ARGV[4])
for i = 5, #ARGV, 6 do
  bytes = bytes + #ARGV[i + 5]
  local added = redis.pcall('XADD', KEYS[2], ARGV[i] .. '-' .. ARGV[i + 1], 't', ARGV[i + 2],
    'p', ARGV[i + 3], 'c', ARGV[i + 4], 'b', exact(bytes), 'f', ARGV[i + 5])
  if type(added) == 'table' and added.err then return {'REFUSED', added.err} end
end
return {'OK', exact(bytes)}
