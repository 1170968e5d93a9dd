#!lua
-- Append frames at consecutive places of the log, and publish them on the bus.
--
-- KEYS  meta, log:<epoch>, pos:<epoch>
-- ARGV  epoch, writer's seq, writer's chain, fingerprint, level that the writer has applied,
--       channel, log_bytes_max, inline_bytes_max, the voters before and after ('' unless they
--       change), ballot that opened the writer's epoch ('' for any), level of the log afterwards
--       ('' unless it rises), most entries that a writer may be behind (0 for any), then
--       (digest, header, body) for each frame
-- Returns {'OK', first seq, last seq, chain, time_us, 'heard'|'unheard'}, or the name of an
-- outcome and its detail.  An outcome is a value, never an error reply: no client retries it.
--
-- The voters change only while a majority of them holds the last change.  Then every majority
-- before the change overlaps every majority after it.  'UNHELD' says that no majority holds it,
-- or that the voters are not those that the writer knows.
--
-- Everything is computed before the first write.  The first write may be refused (permissions,
-- a foreign key of the same name), and then it is undone.  After it nothing can fail.
local replid = replication()
local m = read('HMGET', KEYS[1], 'epoch', 'seq', 'chain', 'state', 'replid',
  'fingerprint', 'level', 'bytes', 'floor_bytes', 'voters', 'voters_seq', 'epoch_id')
-- Only what is used is checked here; heartbeats check the whole header.
if not m then return {'LOST', KEYS[1] .. ' is not a hash'} end
for i = 1, 9 do
  if not m[i] then return {'LOST'} end
end
if not (is_number(m[1]) and is_number(m[2]) and #m[3] == 40 and is_number(m[7])
    and is_number(m[8]) and is_number(m[9])) then
  return {'LOST', KEYS[1] .. ' is damaged'}
end
if m[5] ~= replid then return {'NEWHIST'} end
if m[4] == 'recovering' or m[4] == 'frozen' then return {'CLOSED', m[4]} end
if m[4] ~= 'open' then return {'LOST', KEYS[1] .. ': the field state is damaged'} end
if m[1] ~= ARGV[1] or (ARGV[11] ~= '' and ARGV[11] ~= m[12]) then return {'STALE', m[1]} end
-- A writer ahead of the log, or at another chain, proves that this server lost entries.
local seq, mine = tonumber(m[2]), tonumber(ARGV[2])
if mine > seq or (mine == seq and ARGV[3] ~= m[3]) then return {'REGRESSED', m[2]} end
if m[6] ~= ARGV[4] then
  if not is_name(m[6]) then return {'LOST', KEYS[1] .. ': the field fingerprint is damaged'} end
  return {'MODEL', m[6]}
end
if tonumber(m[7]) < tonumber(ARGV[5]) then return {'LEVEL', m[7]} end
-- A writer that is behind seals for a level or a place that the nodes refuse here.
if tonumber(m[7]) > tonumber(ARGV[5]) then return {'BEHIND', m[7]} end
local behind_max = tonumber(ARGV[13])
if behind_max > 0 and seq + (#ARGV - 13) / 3 - mine > behind_max then return {'BEHIND', m[2]} end

if ARGV[9] ~= '' then
  if not m[10] or not is_number(m[11]) then return {'LOST', KEYS[1] .. ' is damaged'} end
  if ARGV[9] ~= m[10] then return {'UNHELD', 'the voters are others'} end
  local voters, holding = 0, 0
  for id in string.gmatch(m[10], '[^,]+') do
    voters = voters + 1
    if place_of(KEYS[3], id) >= tonumber(m[11]) then holding = holding + 1 end
  end
  if holding * 2 <= voters then
    return {'UNHELD', tostring(holding) .. ' of ' .. tostring(voters)}
  end
end

local bytes, chain, epoch = tonumber(m[8]), m[3], m[1]
local time_us = exact(now_us())
local entries = {}
for i = 14, #ARGV, 3 do
  seq, bytes = seq + 1, bytes + #ARGV[i + 2]
  local prev = chain
  chain = redis.sha1hex(prev .. '|' .. epoch .. '|' .. exact(seq) .. '|' .. ARGV[i])
  entries[#entries + 1] = {exact(seq), prev, chain, exact(bytes), ARGV[i + 1], ARGV[i + 2]}
end
if bytes - tonumber(m[9]) > tonumber(ARGV[7]) then return {'FULL'} end

-- A message holds as many entries as fit.  An entry that does not fit alone is only announced.
local inline_bytes_max, messages, parts, part_bytes = tonumber(ARGV[8]), {}, {}, 0
for _, e in ipairs(entries) do
  local kind, body = 'E', e[6]
  if #body > inline_bytes_max then kind, body = 'P', e[5] end
  if part_bytes > 0 and part_bytes + #body > inline_bytes_max then
    messages[#messages + 1], parts, part_bytes = table.concat(parts), {}, 0
  end
  parts[#parts + 1] = 'SR1 ' .. kind .. ' ' .. epoch .. ' ' .. e[1] .. ' ' .. e[2] .. ' '
    .. e[3] .. ' ' .. time_us .. ' ' .. #body .. '\n' .. body
  part_bytes = part_bytes + #body
end
messages[#messages + 1] = table.concat(parts)

local head = redis.pcall('HSET', KEYS[1], 'seq', exact(seq), 'chain', chain, 'bytes', exact(bytes))
if type(head) == 'table' and head.err then return {'REFUSED', head.err} end
for i, e in ipairs(entries) do
  local added = redis.pcall('XADD', KEYS[2], epoch .. '-' .. e[1],
    't', time_us, 'p', e[2], 'c', e[3], 'b', e[4], 'f', e[6])
  if i == 1 and type(added) == 'table' and added.err then
    redis.call('HSET', KEYS[1], 'seq', m[2], 'chain', m[3], 'bytes', m[8])
    -- A key of another type, or an entry that nobody numbered: the stream is damaged.
    if is_wrong_type(added) or string.find(added.err, 'equal or smaller', 1, true) then
      return {'DAMAGED', KEYS[2]}
    end
    return {'REFUSED', added.err}
  end
end
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[1], 'voters', ARGV[10], 'voters_seq', exact(seq))
end
if ARGV[12] ~= '' then redis.call('HSET', KEYS[1], 'level', ARGV[12]) end
local heard = 'heard'
for _, message in ipairs(messages) do
  local sent = redis.pcall('PUBLISH', ARGV[6], message)
  if type(sent) == 'table' then heard = 'unheard' end
end
return {'OK', entries[1][1], exact(seq), chain, time_us, heard}
