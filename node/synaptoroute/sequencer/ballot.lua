#!lua flags=allow-oom
-- Close the log with a ballot, so that every node reports its position.
--
-- KEYS  meta, rec
-- ARGV  id, epoch that the ballot must be above, cause, epoch_id or ballot that was seen,
--       channel, node id, then for a server without a log: lineage, fingerprint, dim, level,
--       voters
-- Returns {'RECOVERING', ballot} (the new or the current one), {'OPEN'} (there is no reason to
-- close the log) or {'FROZEN'}.
-- An open log is closed if it was opened on another server (by its replication id), or if
-- the caller has a proof against the epoch that it has seen.  The current ballot is replaced
-- only by a caller that has seen it.  A ballot is bound to this server: one that a replica
-- inherited is void.
local info = redis.pcall('INFO', 'replication')
local replid = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or '-'
local m = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'chain', 'state', 'replid', 'rec_id',
  'rec_replid', 'epoch_id')
local is_log = m[1] and m[2] and m[3] and m[4]
if is_log then
  if m[4] == 'frozen' then return {'FROZEN'} end
  if m[4] == 'recovering' and m[7] == replid and m[6] and m[6] ~= '' and m[6] ~= ARGV[4] then
    return {'RECOVERING', m[6]}
  end
  local needs_proof = m[4] == 'open' and m[5] == replid
  local proofs = {regressed = true, promised = true, damaged = true, forced = true}
  if needs_proof and not (proofs[ARGV[3]] and ARGV[4] == m[8]) then return {'OPEN'} end
end

local balloted = tonumber(string.match(m[6] or '', '^(%d+)%.') or '0')
local epoch = math.max(tonumber(m[1] or '0'), balloted, tonumber(ARGV[2])) + 1
local ballot = string.format('%.0f', epoch) .. '.' .. ARGV[1]
local start = string.rep('0', 40)
if not is_log then
  m[1], m[2], m[3] = '0', '0', start
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'epoch', '0', 'epoch_id', '', 'seq', '0', 'chain', start,
    'replid', '', 'floor', '1', 'floor_chain', start, 'floor_bytes', '0', 'bytes', '0',
    'lineage', ARGV[7], 'fingerprint', ARGV[8], 'dim', ARGV[9], 'level', ARGV[10],
    'voters', ARGV[11])
end
redis.call('HSET', KEYS[1], 'state', 'recovering', 'rec_id', ballot, 'rec_replid', replid,
  'rec_cause', ARGV[3])
redis.call('DEL', KEYS[2])
local time = redis.call('TIME')
redis.pcall('PUBLISH', ARGV[5], 'SR1 B ' .. m[1] .. ' ' .. m[2] .. ' ' .. m[3] .. ' '
  .. string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
  .. ' recovering ' .. ARGV[6] .. '\n')
return {'RECOVERING', ballot}
