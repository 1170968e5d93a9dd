#!lua flags=allow-oom
-- Remove the command that a node has executed, unless another one was left meanwhile.
--
-- KEYS  orders
-- ARGV  node id, the command as it was read
-- Returns {'OK'} or {'OTHER'} (another command waits, or none).
if read('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return {'OTHER'} end
write('HDEL', KEYS[1], ARGV[1])
return {'OK'}
