#!lua flags=allow-oom
-- Drop the entries before a floor, if a majority of the voters holds them.
--
-- KEYS  meta, log:<epoch>, pos:<epoch>, then lease:<name> if a lease is needed
-- ARGV  'token:owner' of the lease ('' for none), epoch, floor, keep_bytes
-- Returns {'OK', entries dropped, floor}, {'LOST'}, {'STALE', epoch}, {'CLOSED', state},
-- {'FENCED'} (the lease is not ours any more), {'UNHELD', voters that hold it, voters},
-- {'BEYOND', seq} (the newest entry always stays) or {'TORN'}.
-- With keep_bytes above 0 the oldest entries go only until the rest has so many bytes.
-- The ids of the stream carry the epoch of each entry, and a stream holds entries of several
-- epochs, so the id of a place has to be looked up.
-- Allowed over maxmemory, because it frees memory.
if ARGV[1] ~= '' and read('GET', KEYS[4]) ~= ARGV[1] then return {'FENCED'} end
local m, why = header(KEYS[1])
if not m then return {'LOST', why} end
if m.epoch ~= ARGV[2] then return {'STALE', m.epoch} end
if m.state ~= 'open' then return {'CLOSED', m.state} end
local seq, floor, old = tonumber(m.seq), tonumber(ARGV[3]), tonumber(m.floor)

local function fields_of(found)
  local fields = {id = found[1]}
  local epoch, place = string.match(found[1], '^(%d+)%-(%d+)$')
  fields.epoch, fields.seq = epoch, tonumber(place)
  for i = 1, #found[2], 2 do fields[found[2][i]] = found[2][i + 1] end
  local upto = tonumber(fields.b)
  if not (upto and place and fields.f and is_chain(fields.p)) then return nil end
  fields.upto, fields.before = upto, upto - #fields.f
  return fields
end
local function one(command, from, to)
  local found = read(command, KEYS[2], from, to, 'COUNT', 1)
  return found and found[1] and fields_of(found[1])
end
-- Wrong counts would close the log as full although it is not.
local last = one('XREVRANGE', '+', '-')
if not last or last.seq ~= seq or last.b ~= m.bytes then return {'TORN'} end

if floor <= old then return {'OK', '0', m.floor} end
if floor > seq then return {'BEYOND', m.seq} end
local voters, holding = 0, 0
for id in string.gmatch(m.voters, '[^,]+') do
  voters = voters + 1
  if place_of(KEYS[3], id) >= floor - 1 then holding = holding + 1 end
end
if holding * 2 <= voters or voters == 0 then
  return {'UNHELD', tostring(holding), tostring(voters)}
end

-- The epochs of the stream, the newest first, as far back as the old floor.
local total, segments, top = last.upto, {}, last
while true do
  local first = one('XRANGE', top.epoch .. '-0', '+')
  if not first then return {'TORN'} end
  segments[#segments + 1] = {epoch = top.epoch, from = first.seq}
  if first.seq <= old then break end
  top = one('XREVRANGE', '(' .. first.id, '-')
  if not top then break end
end
local function at(place)
  for _, segment in ipairs(segments) do
    if segment.from <= place then
      local id = segment.epoch .. '-' .. exact(place)
      return one('XRANGE', id, id)
    end
  end
end

local stays = at(floor)
if not stays then return {'TORN'} end
local keep_bytes = tonumber(ARGV[4])
if keep_bytes > 0 then
  -- Find the lowest place from which on the entries fit.
  local low, high = old, floor
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = at(middle)
    if not found then return {'TORN'} end
    if total - found.before <= keep_bytes then high = middle else low = middle + 1 end
  end
  if low ~= floor then stays = at(low) end
  floor = low
  if not stays then return {'TORN'} end
end
if stays.before < 0 or stays.before > total then return {'TORN'} end
if floor <= old then return {'OK', '0', m.floor} end
-- The oldest remaining entry gives the chain and the bytes before the floor.
local dropped = redis.call('XTRIM', KEYS[2], 'MINID', '=', stays.id)
redis.call('HSET', KEYS[1], 'floor', exact(floor), 'floor_chain', stays.p,
  'floor_bytes', exact(stays.before))
return {'OK', tostring(dropped), exact(floor)}
