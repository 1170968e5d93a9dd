#!lua flags=no-writes
-- Read the durable sequence numbers of the voters and of the live nodes.
--
-- KEYS  meta, hb, pos:<epoch>
-- ARGV  epoch, alive_ms
-- Returns {'OK', count of voters, seq of each voter ..., id and seq of each live node ...}, with
-- 0 for a node that never reported; {'STALE', epoch} or {'LOST'}.
local m = redis.call('HMGET', KEYS[1], 'epoch', 'voters')
if not m[1] then return {'LOST'} end
if m[1] ~= ARGV[1] then return {'STALE', m[1]} end
local function held(id)
  return string.format('%.0f', tonumber(redis.call('ZSCORE', KEYS[3], id) or '0'))
end
local answer = {'OK', '0'}
for id in string.gmatch(m[2] or '', '[^,]+') do answer[#answer + 1] = held(id) end
answer[2] = tostring(#answer - 2)
local time = redis.call('TIME')
local since = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - tonumber(ARGV[2])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], string.format('%.0f', since), '+inf')) do
  answer[#answer + 1] = id
  answer[#answer + 1] = held(id)
end
return answer
