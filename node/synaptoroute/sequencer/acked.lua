#!lua flags=no-writes
-- Read the durable sequence numbers of the voters and of the live nodes.
--
-- KEYS  meta, hb, pos:<epoch>
-- ARGV  epoch, alive_ms
-- Returns {'OK', count of voters, seq of each voter ..., id and seq of each live node ...}, with
-- 0 for a node that never reported; {'STALE', epoch} or {'LOST'}.
local m, why = header(KEYS[1])
if not m then return {'LOST', why} end
if m.epoch ~= ARGV[1] then return {'STALE', m.epoch} end
local function held(id) return exact(place_of(KEYS[3], id)) end
local answer = {'OK', '0'}
for id in string.gmatch(m.voters, '[^,]+') do answer[#answer + 1] = held(id) end
answer[2] = tostring(#answer - 2)
local since = exact(math.floor(now_us() / 1000) - tonumber(ARGV[2]))
for _, id in ipairs(read('ZRANGEBYSCORE', KEYS[2], since, '+inf') or {}) do
  answer[#answer + 1] = id
  answer[#answer + 1] = held(id)
end
return answer
