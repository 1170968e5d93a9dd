#!lua flags=allow-oom
-- Publish the head of the log, so that silence on the bus means a broken connection.
--
-- KEYS  meta, lease:beat, fence
-- ARGV  channel, node id, lease_ms, '1' to send although another node holds the lease, '2' to do so
--       only if that node has not sent for silent_ms, silent_ms
-- Returns 'BEAT' (the lease is ours), 'FOREIGN' (sent without it), 'HELD' or 'LOST'.
-- The script may write, so a replica refuses it: a demoted server sends none.
local m = header(KEYS[1])
if not m then return 'LOST' end
local time_us = now_us()
local held = read('GET', KEYS[2])
local owner = held and string.match(held, '^%d+:(.*)$')
-- A lease always has an end and an owner.
if held and (not owner or redis.call('PTTL', KEYS[2]) < 0) then held = false end
local answer = 'BEAT'
if not held then
  local newest = read('GET', KEYS[3])
  local token = exact(math.max((is_number(newest) and tonumber(newest) or 0) + 1, time_us))
  redis.call('SET', KEYS[3], token)
  redis.call('SET', KEYS[2], token .. ':' .. ARGV[2], 'PX', ARGV[3])
elseif owner == ARGV[2] then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
elseif ARGV[4] == '1' or (ARGV[4] == '2'
    and redis.call('PTTL', KEYS[2]) <= tonumber(ARGV[3]) - tonumber(ARGV[5])) then
  answer = 'FOREIGN'
else
  return 'HELD'
end
redis.pcall('PUBLISH', ARGV[1], 'SR1 B ' .. m.epoch .. ' ' .. m.seq .. ' ' .. m.chain .. ' '
  .. exact(time_us) .. ' ' .. m.state .. ' ' .. ARGV[2] .. '\n')
return answer
