#!lua flags=allow-oom
-- Report to the audit at a place; a second report of a node replaces the first.
--
-- KEYS  audit:<seq>
-- ARGV  node id, report (JSON), how long it is kept in ms
write('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'OK'}
