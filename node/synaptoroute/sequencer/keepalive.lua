#!lua flags=allow-oom
-- Publish the head of the log, so that silence on the bus means a broken connection.
--
-- KEYS  meta, lease:beat, fence
-- ARGV  channel, node id, lease_ms, '1' to send although another node holds the lease
-- Returns 'BEAT' (the lease is ours), 'FOREIGN' (sent without it), 'HELD' or 'LOST'.
-- The script may write, so a replica refuses it: a demoted server sends none.
local m = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'chain', 'state')
if not (m[1] and m[2] and m[3] and m[4]) then return 'LOST' end
local time = redis.call('TIME')
local time_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local held = redis.call('GET', KEYS[2])
local owner = held and string.match(held, '^%d+:(.*)$')
local answer = 'BEAT'
if not held then
  local token = math.max(tonumber(redis.call('GET', KEYS[3]) or '0') + 1, time_us)
  token = string.format('%.0f', token)
  redis.call('SET', KEYS[3], token)
  redis.call('SET', KEYS[2], token .. ':' .. ARGV[2], 'PX', ARGV[3])
elseif owner == ARGV[2] then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
elseif ARGV[4] == '1' then
  answer = 'FOREIGN'
else
  return 'HELD'
end
redis.pcall('PUBLISH', ARGV[1], 'SR1 B ' .. m[1] .. ' ' .. m[2] .. ' ' .. m[3] .. ' '
  .. string.format('%.0f', time_us) .. ' ' .. m[4] .. ' ' .. ARGV[2] .. '\n')
return answer
