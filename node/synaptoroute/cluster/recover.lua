#!lua flags=allow-oom
-- Close the log because its server is not the one it was opened on, and ask for reports.
--
-- KEYS  meta, rec
-- ARGV  rec_id to use where no recovery is going on
-- Gives {'OPEN'} (nothing to do), {'LOST'}, {'FROZEN'} or {'RECOVERING', rec_id}.
-- The ballot is bound to this server: one that a replica inherited is void.
local info = redis.pcall('INFO', 'replication')
local replid = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or '-'
local m = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'replid', 'rec_id', 'rec_replid')
if not (m[1] and m[2] and m[3]) then return {'LOST'} end
if m[2] == 'open' and m[3] == replid then return {'OPEN'} end
if m[2] == 'frozen' then return {'FROZEN'} end
if m[2] == 'recovering' and m[5] == replid and m[4] then return {'RECOVERING', m[4]} end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'state', 'recovering', 'rec_id', ARGV[1], 'rec_replid', replid)
return {'RECOVERING', ARGV[1]}
