#!lua flags=allow-oom
-- Close the log with a ballot, so that every node reports its position.
--
-- KEYS  meta, rec
-- ARGV  id, epoch that the ballot must be above, cause, epoch_id or ballot that was seen,
--       channel, node id, then for a server without a log: lineage, fingerprint, dim, level,
--       voters; then '1' if the header itself is wrong
-- Returns {'RECOVERING', ballot} (the new or the current one), {'OPEN'} (there is no reason to
-- close the log) or {'FROZEN'}.
-- An open log is closed if it was opened on another server (by its replication id), or if
-- the caller has a proof against the epoch that it has seen.  The current ballot is replaced
-- only by a caller that has seen it.  A ballot is bound to this server: one that a replica
-- inherited is void.
-- A header that is damaged, or that the caller proves wrong, is made anew from what the caller
-- knows.  Nothing of it counts then, least of all its epoch.
local replid = replication()
local m = header(KEYS[1])
if m then
  if m.state == 'frozen' then return {'FROZEN'} end
  local is_named = string.match(m.rec_id, '^%d+%.%w+$')
  if m.state == 'recovering' and m.rec_replid == replid and is_named and m.rec_id ~= ARGV[4] then
    return {'RECOVERING', m.rec_id}
  end
  local needs_proof = m.state == 'open' and m.replid == replid
  local proofs = {regressed = true, promised = true, damaged = true, forced = true}
  if needs_proof and not (proofs[ARGV[3]] and ARGV[4] == m.epoch_id) then return {'OPEN'} end
end

local start = string.rep('0', 40)
if not m or ARGV[12] == '1' then
  m = {epoch = '0', seq = '0', chain = start, rec_id = ''}
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'epoch', '0', 'epoch_id', '', 'seq', '0', 'chain', start,
    'replid', '', 'floor', '1', 'floor_chain', start, 'floor_bytes', '0', 'bytes', '0',
    'lineage', ARGV[7], 'fingerprint', ARGV[8], 'dim', ARGV[9], 'level', ARGV[10],
    'voters', ARGV[11], 'voters_seq', '0', 'rec_id', '', 'rec_replid', '')
end
local balloted = string.match(m.rec_id, '^(%d+)%.')
local epoch = math.max(tonumber(m.epoch), is_number(balloted) and tonumber(balloted) or 0,
  tonumber(ARGV[2])) + 1
local ballot = exact(epoch) .. '.' .. ARGV[1]
redis.call('HSET', KEYS[1], 'state', 'recovering', 'rec_id', ballot, 'rec_replid', replid,
  'rec_cause', ARGV[3])
redis.call('DEL', KEYS[2])
redis.pcall('PUBLISH', ARGV[5], 'SR1 B ' .. m.epoch .. ' ' .. m.seq .. ' ' .. m.chain .. ' '
  .. exact(now_us()) .. ' recovering ' .. ARGV[6] .. '\n')
return {'RECOVERING', ballot}
