-- Shared parts, inserted after the first line of every script; see also header.lua.
--
-- Whoever can write to Redis can put anything under these keys, so no script trusts a type or a
-- number.  A header that is not exactly in its format counts as lost: the voters make a new one.
-- Keys that are filled again by themselves (positions, presence, leases, reports) are replaced
-- if they have another type.

local function exact(number) return string.format('%.0f', number) end

local function is_number(text)
  return text and text ~= '' and #text <= 16 and not string.find(text, '%D')
    and tonumber(text) < 2 ^ 53
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
