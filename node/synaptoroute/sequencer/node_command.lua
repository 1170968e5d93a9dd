#!lua flags=allow-oom
-- Leave a command for a node, which polls for it; only for the holder of the lease.
--
-- KEYS  lease:<name>, orders
-- ARGV  'token:owner' of the lease, node id, command (JSON)
-- Returns {'OK'} or {'FENCED'} (the lease is not ours any more).
if read('GET', KEYS[1]) ~= ARGV[1] then return {'FENCED'} end
write('HSET', KEYS[2], ARGV[2], ARGV[3])
return {'OK'}
