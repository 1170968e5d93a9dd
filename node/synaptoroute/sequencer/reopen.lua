#!lua flags=allow-oom
-- Open the next epoch on top of the chosen history.
--
-- KEYS  meta, stream with that history, log:<new epoch>, lease:<name>, rec, refill,
--       pos:<new epoch>, then logs and positions of former epochs, to be dropped
-- ARGV  'token:owner' of the lease, ballot, 'kept' or 'refilled', seq and chain of the base,
--       floor, floor_chain, new epoch, its id, digest and body of its first entry, voters,
--       channel, level, fingerprint and dim of the base
-- Returns {'OK', chain}, {'FENCED'}, {'LOST'}, {'SUPERSEDED', state}, {'RESTARTED'},
-- {'TORN', why} or {'REFUSED', why}.
-- The ballot must have been started on this server: one that was copied by replication could
-- open the same epoch on two servers.  The stream must end at the base.  The header gets the
-- encoder of the base, because a lost or damaged header may name another one.
-- Everything is computed before the first write; after it nothing can fail.
local replid = replication()
local m, why = header(KEYS[1])
if not m then return {'LOST', why} end
local is_open = m.state == 'open' and m.epoch == ARGV[8] and m.epoch_id == ARGV[9]
if is_open then return {'OK', m.chain} end
if read('GET', KEYS[4]) ~= ARGV[1] then return {'FENCED'} end
if m.state ~= 'recovering' or m.rec_id ~= ARGV[2] then return {'SUPERSEDED', m.state} end
if m.rec_replid ~= replid then return {'RESTARTED'} end

local is_kept = ARGV[3] == 'kept'
local base, floor, floor_chain = tonumber(ARGV[4]), tonumber(ARGV[6]), ARGV[7]
if is_kept then
  if m.seq ~= ARGV[4] or m.chain ~= ARGV[5] then return {'TORN', 'the head is not the base'} end
  floor, floor_chain = tonumber(m.floor), m.floor_chain
end
local function end_of(command, from, to)
  local found = redis.call(command, KEYS[2], from, to, 'COUNT', 1)[1]
  local fields = {seq = tonumber(string.match(found[1], '%-(%d+)$'))}
  for i = 1, #found[2], 2 do fields[found[2][i]] = found[2][i + 1] end
  return fields
end
local length = read('XLEN', KEYS[2])
if length ~= base - floor + 1 then return {'TORN', 'entries are missing'} end
local bytes, floor_bytes = 0, 0
if length == 0 then
  if floor_chain ~= ARGV[5] then return {'TORN', 'the floor is not the base'} end
else
  local first, last = end_of('XRANGE', '-', '+'), end_of('XREVRANGE', '+', '-')
  if last.seq ~= base or last.c ~= ARGV[5] or first.seq ~= floor or first.p ~= floor_chain then
    return {'TORN', 'the stream does not end in the base'}
  end
  if not is_number(last.b) then return {'TORN', 'the bytes of the last entry are damaged'} end
  bytes = tonumber(last.b)
end
if is_kept then bytes, floor_bytes = tonumber(m.bytes), tonumber(m.floor_bytes) end

local seq, body = exact(base + 1), ARGV[11]
local chain = redis.sha1hex(ARGV[5] .. '|' .. ARGV[8] .. '|' .. seq .. '|' .. ARGV[10])
local time_us = exact(now_us())
bytes = exact(bytes + #body)
local added = redis.pcall('XADD', KEYS[2], ARGV[8] .. '-' .. seq,
  't', time_us, 'p', ARGV[5], 'c', chain, 'b', bytes, 'f', body)
if type(added) == 'table' and added.err then return {'REFUSED', added.err} end
redis.call('RENAME', KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'epoch', ARGV[8], 'epoch_id', ARGV[9], 'seq', seq, 'chain', chain,
  'state', 'open', 'replid', replid, 'rec_id', '', 'rec_replid', '', 'rec_cause', '',
  'floor', exact(floor), 'floor_chain', floor_chain, 'floor_bytes', exact(floor_bytes),
  'bytes', bytes, 'voters', ARGV[12], 'voters_seq', seq, 'level', ARGV[14],
  'fingerprint', ARGV[15], 'dim', ARGV[16])
redis.call('DEL', KEYS[5], KEYS[7])
if KEYS[6] ~= KEYS[2] then redis.call('DEL', KEYS[6]) end
for i = 8, #KEYS do
  if KEYS[i] ~= KEYS[2] and KEYS[i] ~= KEYS[3] then redis.call('DEL', KEYS[i]) end
end
redis.pcall('PUBLISH', ARGV[13], 'SR1 E ' .. ARGV[8] .. ' ' .. seq .. ' ' .. ARGV[5] .. ' '
  .. chain .. ' ' .. time_us .. ' ' .. #body .. '\n' .. body)
return {'OK', chain}
