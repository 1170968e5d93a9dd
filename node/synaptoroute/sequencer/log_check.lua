#!lua flags=no-writes
-- Read the reports to a ballot, and check whether the server's own stream can be kept.
--
-- KEYS  meta, log:<epoch>, rec, hb
-- ARGV  epoch, ballot ('' to check an open log), alive_ms, links_max
-- Returns {'OK', damage of the stream ('' if there is none), seq, chain, voters, {live nodes that
-- have not reported}, {node id, report, ...}, {nodes that reported a place in the stream}}, or
-- {'LOST'}, {'SUPERSEDED', state}, {'RESTARTED'}.
-- The stream can be kept if it holds exactly floor..seq, begins at the floor's chain, ends at the
-- header's chain, is linked from the longest report to the head, and has every report of this
-- epoch as a prefix.
local replid = replication()
local m, wrong = header(KEYS[1])
if not m then return {'LOST', wrong} end
if m.epoch ~= ARGV[1] then return {'SUPERSEDED', m.state} end
if ARGV[2] ~= '' and (m.state ~= 'recovering' or m.rec_id ~= ARGV[2]) then
  return {'SUPERSEDED', m.state}
end
if ARGV[2] ~= '' and m.rec_replid ~= replid then return {'RESTARTED'} end
local epoch, seq, floor = tonumber(m.epoch), tonumber(m.seq), tonumber(m.floor)

local function fields_of(found)
  local fields = {id = found[1]}
  for i = 1, #found[2], 2 do fields[found[2][i]] = found[2][i + 1] end
  return fields
end
local function entry(range)
  local found = redis.call(range[1], KEYS[2], range[2], range[3], 'COUNT', 1)[1]
  return found and fields_of(found) or nil
end

local reports, reported, longest = {}, {}, nil
local flat = read('HGETALL', KEYS[3]) or {}
for i = 1, #flat, 2 do
  local ballot, e, s, chain = string.match(flat[i + 1], '^([^|]*)|(%d+)|(%d+)|(%x+)|')
  local is_sound = ballot == ARGV[2] and is_number(e) and is_number(s) and is_chain(chain)
  -- What is no report is not counted: a node reports again until it finds its report.
  if is_sound and is_name(flat[i]) and string.match(flat[i + 1], '^[!-~]*$') then
    local r = {id = flat[i], epoch = tonumber(e), seq = tonumber(s), chain = chain, e = e, s = s}
    reports[#reports + 1], reported[flat[i]] = r, flat[i + 1]
    if not longest or r.epoch > longest.epoch
      or (r.epoch == longest.epoch and r.seq > longest.seq) then longest = r end
  end
end

local function torn()
  if epoch == 0 then return 'there is no log' end
  local length = read('XLEN', KEYS[2])
  if not length then return 'the stream has another type' end
  if length ~= seq - floor + 1 then return 'entries are missing' end
  if length == 0 then
    return m.floor_chain ~= m.chain and 'the floor does not match the head' or nil
  end
  local last, first = entry({'XREVRANGE', '+', '-'}), entry({'XRANGE', '-', '+'})
  if tonumber(string.match(last.id, '%-(%d+)$')) ~= seq or last.c ~= m.chain then
    return 'the last entry does not match the head'
  end
  if first.p ~= m.floor_chain or tonumber(string.match(first.id, '%-(%d+)$')) ~= floor then
    return 'the first entry does not match the floor'
  end
  return nil
end

-- Wrong counts would close the log as full, or let it grow without bound.
local function miscounted()
  if seq < floor then return nil end
  local last, first = entry({'XREVRANGE', '+', '-'}), entry({'XRANGE', '-', '+'})
  if last.b ~= m.bytes or not is_number(first.b) or not first.f
    or tonumber(first.b) - #first.f ~= tonumber(m.floor_bytes) then
    return 'the bytes of the entries do not match the header'
  end
  return nil
end

-- The chain of the stream at the place of a report; nil before its floor and after its head.
local function chain_at(r)
  if r.seq == seq then return m.chain end
  if r.seq == floor - 1 then return m.floor_chain end
  if r.seq < floor or r.seq > seq then return nil end
  local there = entry({'XRANGE', r.e .. '-' .. r.s, r.e .. '-' .. r.s})
  return there and there.c or ''
end

local followers = {}
local function forked()
  for _, r in ipairs(reports) do
    local chain = r.epoch <= epoch and chain_at(r)
    if chain and chain == r.chain then
      followers[#followers + 1] = r.id
    elseif chain and r.epoch == epoch then
      return 'node ' .. r.id .. ' holds other entries'
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
why = why or miscounted()
local since = now_us() / 1000 - tonumber(ARGV[3])
local silent = {}
for _, id in ipairs(read('ZRANGEBYSCORE', KEYS[4], exact(since), '+inf') or {}) do
  if not reported[id] and is_name(id) then silent[#silent + 1] = id end
end
local answers = {}
for _, r in ipairs(reports) do
  answers[#answers + 1] = r.id
  answers[#answers + 1] = reported[r.id]
end
return {'OK', why or '', m.seq, m.chain, m.voters, silent, answers, followers}
