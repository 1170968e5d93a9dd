#!lua flags=allow-oom
-- Reopen a log whose server restarted with its data intact; the epoch goes on.
--
-- KEYS  meta, log:<epoch>, hb, rec
-- ARGV  epoch, rec_id, alive_ms, channel
-- It is intact if the stream holds exactly floor..seq and ends in meta's chain, if every live
-- node and a majority of the voters have reported to this ballot, and if every report is a
-- prefix of the log.  A write that a majority holds is then in the log: some voter of it reported.
-- Gives {'OK'}, {'LOST'}, {'SUPERSEDED', state}, {'RESTARTED'}, {'TORN', why},
-- {'WAITING', node id, ...}, {'BEHIND', node id, its epoch, its seq} or {'FORKED', the same}.
local info = redis.pcall('INFO', 'replication')
local replid = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or '-'
local m = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'chain', 'state', 'rec_id', 'rec_replid',
  'floor', 'floor_chain', 'voters')
if not (m[1] and m[2] and m[3] and m[4]) then return {'LOST'} end
if m[4] ~= 'recovering' or m[5] ~= ARGV[2] or m[1] ~= ARGV[1] then return {'SUPERSEDED', m[4]} end
if m[6] ~= replid then return {'RESTARTED'} end
local epoch, seq, floor = tonumber(m[1]), tonumber(m[2]), tonumber(m[7])

local function entry(range)
  local found = redis.call(range[1], KEYS[2], range[2], range[3], 'COUNT', 1)[1]
  if not found then return nil end
  local fields = {id = found[1]}
  for i = 1, #found[2], 2 do fields[found[2][i]] = found[2][i + 1] end
  return fields
end

local length = redis.call('XLEN', KEYS[2])
if length ~= seq - floor + 1 then return {'TORN', 'entries are missing'} end
if length == 0 then
  if m[8] ~= m[3] then return {'TORN', 'the floor does not match the head'} end
else
  local last, first = entry({'XREVRANGE', '+', '-'}), entry({'XRANGE', '-', '+'})
  if last.id ~= m[1] .. '-' .. m[2] or last.c ~= m[3] then
    return {'TORN', 'the last entry does not match the head'}
  end
  if first.p ~= m[8] or tonumber(string.match(first.id, '%-(%d+)$')) ~= floor then
    return {'TORN', 'the first entry does not match the floor'}
  end
end

-- Who has to answer: all that live, and more than half of the voters.
local reports, waiting, voters, answered = {}, {}, 0, 0
local flat = redis.call('HGETALL', KEYS[4])
for i = 1, #flat, 2 do
  local ballot, e, s, chain = string.match(flat[i + 1], '^([^|]*)|(%d+)|(%d+)|(%x+)|')
  if ballot == ARGV[2] then
    reports[flat[i]] = {epoch = tonumber(e), seq = tonumber(s), chain = chain, e = e, s = s}
  end
end
local time = redis.call('TIME')
local alive_since = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000 - tonumber(ARGV[3])
alive_since = string.format('%.0f', alive_since)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], alive_since, '+inf')) do
  if not reports[id] then waiting[#waiting + 1] = id end
end
local silent = {}
for id in string.gmatch(m[9] or '', '[^,]+') do
  voters = voters + 1
  if reports[id] then answered = answered + 1 else silent[#silent + 1] = id end
end

for id, r in pairs(reports) do
  if r.epoch > epoch or (r.epoch == epoch and r.seq > seq) then
    return {'BEHIND', id, r.e, r.s}
  end
  if r.epoch == epoch then
    local chain = nil
    if r.seq == seq then chain = m[3]
    elseif r.seq == floor - 1 then chain = m[8]
    elseif r.seq >= floor then
      local there = entry({'XRANGE', m[1] .. '-' .. r.s, m[1] .. '-' .. r.s})
      chain = there and there.c or ''
    end
    if chain and chain ~= r.chain then return {'FORKED', id, r.e, r.s} end
  end
end
if #waiting > 0 then return {'WAITING', unpack(waiting, 1, math.min(#waiting, 32))} end
if answered * 2 <= voters then return {'WAITING', unpack(silent)} end

redis.call('HSET', KEYS[1], 'state', 'open', 'replid', replid, 'rec_id', '', 'rec_replid', '')
redis.call('DEL', KEYS[4])
redis.pcall('PUBLISH', ARGV[4], 'SR1 B ' .. m[1] .. ' ' .. m[2] .. ' ' .. m[3] .. ' '
  .. string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2])) .. ' open fence\n')
return {'OK'}
