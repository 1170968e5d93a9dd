#!lua flags=no-writes
-- Read the reports to a ballot, and check whether the server's own stream can be kept.
--
-- KEYS  meta, log:<epoch>, rec, hb
-- ARGV  epoch, ballot ('' to check an open log), alive_ms, links_max
-- Returns {'OK', damage of the stream ('' if there is none), seq, chain, voters, {live nodes that
-- have not reported}, {node id, report, ...}}, or {'LOST'}, {'SUPERSEDED', state}, {'RESTARTED'}.
-- The stream can be kept if it holds exactly floor..seq, begins at the floor's chain, ends at the
-- header's chain, is linked from the longest report to the head, and has every report of this
-- epoch as a prefix.
local info = redis.pcall('INFO', 'replication')
local replid = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or '-'
local m = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'chain', 'state', 'rec_id', 'rec_replid',
  'floor', 'floor_chain', 'voters')
if not (m[1] and m[2] and m[3] and m[4] and m[7] and m[8]) then return {'LOST'} end
if m[1] ~= ARGV[1] then return {'SUPERSEDED', m[4]} end
if ARGV[2] ~= '' and (m[4] ~= 'recovering' or m[5] ~= ARGV[2]) then
  return {'SUPERSEDED', m[4]}
end
if ARGV[2] ~= '' and m[6] ~= replid then return {'RESTARTED'} end
local epoch, seq, floor = tonumber(m[1]), tonumber(m[2]), tonumber(m[7])

local function fields_of(found)
  local fields = {id = found[1]}
  for i = 1, #found[2], 2 do fields[found[2][i]] = found[2][i + 1] end
  return fields
end
local function entry(range)
  local found = redis.call(range[1], KEYS[2], range[2], range[3], 'COUNT', 1)[1]
  return found and fields_of(found) or nil
end
local function exact(number) return string.format('%.0f', number) end

local reports, reported, longest = {}, {}, nil
local flat = redis.call('HGETALL', KEYS[3])
for i = 1, #flat, 2 do
  local ballot, e, s, chain = string.match(flat[i + 1], '^([^|]*)|(%d+)|(%d+)|(%x+)|')
  if ballot and ballot == ARGV[2] then
    local r = {id = flat[i], epoch = tonumber(e), seq = tonumber(s), chain = chain, e = e, s = s}
    reports[#reports + 1], reported[flat[i]] = r, flat[i + 1]
    if not longest or r.epoch > longest.epoch
      or (r.epoch == longest.epoch and r.seq > longest.seq) then longest = r end
  end
end

local function torn()
  if epoch == 0 then return 'there is no log' end
  local length = redis.call('XLEN', KEYS[2])
  if length ~= seq - floor + 1 then return 'entries are missing' end
  if length == 0 then
    return m[8] ~= m[3] and 'the floor does not match the head' or nil
  end
  local last, first = entry({'XREVRANGE', '+', '-'}), entry({'XRANGE', '-', '+'})
  if tonumber(string.match(last.id, '%-(%d+)$')) ~= seq or last.c ~= m[3] then
    return 'the last entry does not match the head'
  end
  if first.p ~= m[8] or tonumber(string.match(first.id, '%-(%d+)$')) ~= floor then
    return 'the first entry does not match the floor'
  end
  return nil
end

local function forked()
  for _, r in ipairs(reports) do
    if r.epoch == epoch and r.seq <= seq then
      local chain = nil
      if r.seq == seq then chain = m[3]
      elseif r.seq == floor - 1 then chain = m[8]
      elseif r.seq >= floor then
        local there = entry({'XRANGE', r.e .. '-' .. r.s, r.e .. '-' .. r.s})
        chain = there and there.c or ''
      end
      if chain and chain ~= r.chain then return 'node ' .. r.id .. ' holds other entries' end
    end
  end
  return nil
end

-- Entries that no node has applied are accepted only if each continues the one before it.
local function unlinked()
  local from = longest and longest.epoch == epoch and longest.seq or floor - 1
  if from < floor then from = floor end
  if seq - from > tonumber(ARGV[4]) then return 'too many entries that no node holds' end
  local at, seen, chain = '-', from - 1, nil
  if from > floor then
    local e = longest.e
    at = e .. '-' .. exact(from)
  end
  while seen < seq do
    local found = redis.call('XRANGE', KEYS[2], at, '+', 'COUNT', 256)
    if #found == 0 then return 'entries are missing' end
    for _, each in ipairs(found) do
      local f = fields_of(each)
      if tonumber(string.match(f.id, '%-(%d+)$')) ~= seen + 1 or (chain and f.p ~= chain) then
        return 'an entry does not continue the one before it'
      end
      seen, chain = seen + 1, f.c
    end
    at = '(' .. found[#found][1]
  end
  return nil
end

local why = torn() or forked()
if not why and ARGV[2] ~= '' and seq >= floor then why = unlinked() end
local time = redis.call('TIME')
local since = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000 - tonumber(ARGV[3])
local silent = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], exact(since), '+inf')) do
  if not reported[id] then silent[#silent + 1] = id end
end
local answers = {}
for _, r in ipairs(reports) do
  answers[#answers + 1] = r.id
  answers[#answers + 1] = reported[r.id]
end
return {'OK', why or '', m[2], m[3], m[9] or '', silent, answers}
