-- The check of the whole header, inserted into the scripts that call it.

local NUMBERS = {'epoch', 'seq', 'dim', 'level', 'floor', 'floor_bytes', 'bytes'}
local TEXTS = {lineage = 128, epoch_id = 128, replid = 128, rec_id = 256, rec_replid = 128,
  fingerprint = 128, voters = 16384}

-- The header as a table; or nil and what is wrong with it, which is '' if there is none.
local function header(key)
  local flat = read('HGETALL', key)
  if not flat then return nil, key .. ' is not a hash' end
  if #flat == 0 then return nil, '' end
  local m = {}
  for i = 1, #flat, 2 do
    -- Fields of a later release are passed on if they can be.
    if #flat[i] <= 64 and string.match(flat[i], '^[a-z_]+$') and #flat[i + 1] <= 16384
      and string.match(flat[i + 1], '^[ -~]*$') then m[flat[i]] = flat[i + 1] end
  end
  local function wrong(name)
    return nil, key .. ': the field ' .. name .. ' is missing or damaged'
  end
  for _, name in ipairs(NUMBERS) do
    if not is_number(m[name]) then return wrong(name) end
  end
  for name, size in pairs(TEXTS) do
    if not m[name] or #m[name] > size or string.find(m[name], ' ', 1, true) then
      return wrong(name)
    end
  end
  if not is_chain(m.chain) then return wrong('chain') end
  if not is_chain(m.floor_chain) then return wrong('floor_chain') end
  if m.voters_seq and not is_number(m.voters_seq) then return wrong('voters_seq') end
  if m.state ~= 'open' and m.state ~= 'recovering' and m.state ~= 'frozen' then
    return wrong('state')
  end
  local seq, floor = tonumber(m.seq), tonumber(m.floor)
  if floor < 1 or floor > seq + 1 then return wrong('floor') end
  if tonumber(m.floor_bytes) > tonumber(m.bytes) then return wrong('floor_bytes') end
  return m, ''
end
