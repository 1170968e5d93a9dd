#!lua flags=allow-oom
-- Acquire, renew or release a lease.
--
-- KEYS  lease:<name>, fence
-- ARGV  'acquire'|'renew'|'release', owner, token ('' to acquire), lease_ms
-- Returns {'OK', token} or {'HELD', owner, ms left} ('' if nobody holds it).
-- Tokens only grow, even after a loss of the counter: each is at least Redis' time.
-- A lease with more time left than any lease is given was written before the clock went back.
-- Its holder has not renewed it since, so it must not exclude others until the clock returns.
local held = redis.call('GET', KEYS[1])
if held and ARGV[1] == 'acquire' and redis.call('PTTL', KEYS[1]) > 2 * tonumber(ARGV[4]) then
  held = false
end
if ARGV[1] == 'acquire' and not held then
  local time = redis.call('TIME')
  local token = math.max(tonumber(redis.call('GET', KEYS[2]) or '0') + 1,
    tonumber(time[1]) * 1000000 + tonumber(time[2]))
  token = string.format('%.0f', token)
  redis.call('SET', KEYS[2], token)
  redis.call('SET', KEYS[1], token .. ':' .. ARGV[2], 'PX', ARGV[4])
  return {'OK', token}
end
if held and ARGV[1] ~= 'acquire' and held == ARGV[3] .. ':' .. ARGV[2] then
  if ARGV[1] == 'renew' then redis.call('PEXPIRE', KEYS[1], ARGV[4])
  else redis.call('DEL', KEYS[1]) end
  return {'OK', ARGV[3]}
end
if not held then return {'HELD', '', '0'} end
return {'HELD', string.match(held, '^%d+:(.*)$') or '', tostring(redis.call('PTTL', KEYS[1]))}
