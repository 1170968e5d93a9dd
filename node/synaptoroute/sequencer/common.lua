-- Shared parts, inserted after the first line of every script.
--
-- Whoever can write to Redis can put anything under these keys, so no script trusts a type or a
-- number.  A header that is not exactly in its format counts as lost: the voters make a new one.
-- Keys that are filled again by themselves (positions, presence, leases, reports) are replaced
-- if they have another type.

local function exact(number) return string.format('%.0f', number) end

local function is_number(text)
  return text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text) < 2 ^ 53
end

local function is_chain(text)
  return text and #text == 40 and string.match(text, '^[0-9a-f]+$') and true
end

local function is_name(text)
  return #text <= 128 and string.match(text, '^[!-~]+$') and not string.find(text, '[,|]') and true
end

local function is_wrong_type(answer)
  return type(answer) == 'table' and type(answer.err) == 'string'
    and string.find(answer.err, 'WRONGTYPE', 1, true) and true
end

-- Read a key; nil if it has another type.
local function read(...)
  local answer = redis.pcall(...)
  if is_wrong_type(answer) then return nil end
  if type(answer) == 'table' and answer.err then error(answer) end
  return answer
end

-- Write a key that may be replaced; one of another type is deleted first.
local function write(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if is_wrong_type(answer) then
    redis.call('DEL', key)
    answer = redis.call(command, key, ...)
  end
  if type(answer) == 'table' and answer.err then error(answer) end
  return answer
end

-- The score of a member; 0 if there is none, or none that can be a place.
local function place_of(key, member)
  local held = tonumber(read('ZSCORE', key, member) or '0')
  if not held or held ~= held or held < 0 or held >= 2 ^ 53 then return 0 end
  return held
end

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

local function replication()
  local info = redis.pcall('INFO', 'replication')
  local known = type(info) == 'string'
  return known and string.match(info, 'master_replid:(%w+)') or '-',
    known and string.match(info, 'role:(%w+)') or 'unknown'
end

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
