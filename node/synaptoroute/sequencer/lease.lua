#!lua flags=allow-oom
-- Acquire, renew or release a lease.
--
-- KEYS  lease:<name>, fence
-- ARGV  'acquire'|'renew'|'release', owner, token ('' to acquire), lease_ms
-- Returns {'OK', token} or {'HELD', owner, ms left} ('' if nobody holds it).
-- Tokens only grow, even after a loss of the counter: each is at least Redis' time.
-- A lease with more time left than any lease is given was written before the clock went back.
-- Its holder has not renewed it since, so it must not exclude others until the clock returns.
-- One without an end, without an owner, or of another type was not written by this script.
local held = read('GET', KEYS[1])
local owner = held and string.match(held, '^%d+:([ -~]*)$')
if ARGV[1] == 'acquire' and held then
  local left_ms = redis.call('PTTL', KEYS[1])
  if not owner or left_ms < 0 or left_ms > 2 * tonumber(ARGV[4]) then held = false end
end
if ARGV[1] == 'acquire' and not held then
  local newest = read('GET', KEYS[2])
  local token = exact(math.max((is_number(newest) and tonumber(newest) or 0) + 1, now_us()))
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
return {'HELD', owner or '', tostring(redis.call('PTTL', KEYS[1]))}
