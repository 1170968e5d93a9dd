#!lua flags=allow-oom
-- Drop the entries before a floor, if a majority of the voters holds them.
--
-- KEYS  meta, log:<epoch>, pos:<epoch>, lease:<name>
-- ARGV  'token:owner' of the lease, epoch, floor, epoch of the entry at the floor
-- Returns {'OK', entries dropped, floor}, {'LOST'}, {'STALE', epoch}, {'CLOSED', state},
-- {'FENCED'} (the lease is not ours any more), {'UNHELD', voters that hold it, voters},
-- {'BEYOND', seq} (the newest entry always stays) or {'TORN'}.
-- Allowed over maxmemory, because it frees memory.
if redis.call('GET', KEYS[4]) ~= ARGV[1] then return {'FENCED'} end
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
  local held = redis.call('ZSCORE', KEYS[3], id)
  if held and tonumber(held) >= floor - 1 then holding = holding + 1 end
end
if holding * 2 <= voters or voters == 0 then
  return {'UNHELD', tostring(holding), tostring(voters)}
end
-- The oldest remaining entry gives the chain and the bytes before the floor.
local at = ARGV[4] .. '-' .. string.format('%.0f', floor)
local stays = redis.call('XRANGE', KEYS[2], at, at)[1]
if not stays then return {'TORN'} end
local fields = {}
for i = 1, #stays[2], 2 do fields[stays[2][i]] = stays[2][i + 1] end
local floor_bytes = tonumber(fields.b) - #fields.f
local dropped = redis.call('XTRIM', KEYS[2], 'MINID', '=', at)
redis.call('HSET', KEYS[1], 'floor', string.format('%.0f', floor), 'floor_chain', fields.p,
  'floor_bytes', string.format('%.0f', floor_bytes))
return {'OK', tostring(dropped), string.format('%.0f', floor)}
