#!lua flags=no-writes
-- Read entries after a position, as many as fit, with the log's header.
--
-- KEYS  meta, log:<epoch>
-- ARGV  epoch, epoch and seq to read after, entries_max, bytes_max
-- Returns {'LOST'}, {'STALE', epoch} or {'OK', seq, chain, floor, state, entries, epoch_id},
-- with each entry as {id, {field, value, ...}}.  If there are entries, at least one is returned.
local m, why = header(KEYS[1])
if not m then return {'LOST', why} end
if m.epoch ~= ARGV[1] then return {'STALE', m.epoch} end
local head = {'OK', m.seq, m.chain, m.floor, m.state, {}, m.epoch_id}
local entries_max, bytes_left = tonumber(ARGV[4]), tonumber(ARGV[5])
local entries, after, ask = head[6], '(' .. ARGV[2] .. '-' .. ARGV[3], 4
while #entries < entries_max do
  -- A key of another type holds no entries: the reader finds a hole.
  local found = read('XRANGE', KEYS[2], after, '+', 'COUNT', math.min(ask, entries_max - #entries))
  if not found or #found == 0 then break end
  local bytes = 0
  for _, e in ipairs(found) do
    for i = 2, #e[2], 2 do bytes = bytes + #e[2][i] end
    if bytes > bytes_left and #entries > 0 then return head end
    entries[#entries + 1] = e
  end
  bytes_left = bytes_left - bytes
  if bytes_left <= 0 then break end
  after = '(' .. found[#found][1]
  -- Estimate how many fit from those that were read: an entry may have 200 bytes or 2 MiB.
  ask = math.max(1, math.min(128, math.floor(bytes_left * #found / bytes)))
end
return head
