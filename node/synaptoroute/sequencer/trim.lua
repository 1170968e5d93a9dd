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
if ARGV[1] ~= '' and redis.call('GET', KEYS[4]) ~= ARGV[1] then return {'FENCED'} end
local m = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'state', 'floor', 'voters')
if not (m[1] and m[2] and m[3] and m[4]) then return {'LOST'} end
if m[1] ~= ARGV[2] then return {'STALE', m[1]} end
if m[3] ~= 'open' then return {'CLOSED', m[3]} end
local seq, floor, old = tonumber(m[2]), tonumber(ARGV[3]), tonumber(m[4])
if floor <= old then return {'OK', '0', m[4]} end
if floor > seq then return {'BEYOND', m[2]} end
local voters, holding = 0, 0
for id in string.gmatch(m[5] or '', '[^,]+') do
  voters = voters + 1
  local held = tonumber(redis.call('ZSCORE', KEYS[3], id) or '0')
  if held >= floor - 1 and held < 2 ^ 53 then holding = holding + 1 end
end
if holding * 2 <= voters or voters == 0 then
  return {'UNHELD', tostring(holding), tostring(voters)}
end

local function exact(number) return string.format('%.0f', number) end
local function fields_of(found)
  local fields = {id = found[1]}
  local epoch, place = string.match(found[1], '^(%d+)%-(%d+)$')
  fields.epoch, fields.seq = epoch, tonumber(place)
  for i = 1, #found[2], 2 do fields[found[2][i]] = found[2][i + 1] end
  local upto = tonumber(fields.b)
  if not upto or not fields.f or not fields.p then return nil end
  fields.upto, fields.before = upto, upto - #fields.f
  return fields
end
local function one(command, from, to)
  local found = redis.call(command, KEYS[2], from, to, 'COUNT', 1)[1]
  return found and fields_of(found)
end

-- The epochs of the stream, the newest first, as far back as the old floor.
local last = one('XREVRANGE', '+', '-')
if not last then return {'TORN'} end
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
if floor <= old then return {'OK', '0', m[4]} end
-- The oldest remaining entry gives the chain and the bytes before the floor.
local dropped = redis.call('XTRIM', KEYS[2], 'MINID', '=', stays.id)
redis.call('HSET', KEYS[1], 'floor', exact(floor), 'floor_chain', stays.p,
  'floor_bytes', exact(stays.before))
return {'OK', tostring(dropped), exact(floor)}
