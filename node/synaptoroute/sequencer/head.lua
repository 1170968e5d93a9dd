#!lua flags=no-writes
-- Read the head of the log.
--
-- KEYS  meta
-- Returns {'LOST', time_us, role} or {'HEAD', time_us, role, replid, field, value, ...}.
local info = redis.pcall('INFO', 'replication')
local known = type(info) == 'string'
local replid = known and string.match(info, 'master_replid:(%w+)') or '-'
local role = known and string.match(info, 'role:(%w+)') or 'unknown'
local time = redis.call('TIME')
local time_us = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
local meta = redis.call('HGETALL', KEYS[1])
local has = {}
for i = 1, #meta, 2 do has[meta[i]] = true end
if not (has.epoch and has.seq and has.chain and has.state) then return {'LOST', time_us, role} end
local answer = {'HEAD', time_us, role, replid}
for _, value in ipairs(meta) do answer[#answer + 1] = value end
return answer
