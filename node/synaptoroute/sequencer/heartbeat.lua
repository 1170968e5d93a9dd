#!lua flags=allow-oom
-- Report a node and its position; return the head of the log.
--
-- KEYS  meta, nodes, hb, pos:<node's epoch>, rec, claims
-- ARGV  node id, report (JSON), epoch, seq, chain, promise, forget_ms, voters
-- Returns {answer of head.lua, the row that was replaced, count of live nodes, claim of another
-- process on this identity}.  If the node has promised the current ballot, this is also its
-- report to the ballot.  Allowed over maxmemory: the rows replace older ones, and a node that
-- cannot report would be taken for dead.
local info = redis.pcall('INFO', 'replication')
local known = type(info) == 'string'
local replid = known and string.match(info, 'master_replid:(%w+)') or '-'
local role = known and string.match(info, 'role:(%w+)') or 'unknown'
local time = redis.call('TIME')
local time_us = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local meta = redis.call('HGETALL', KEYS[1])
local m = {}
for i = 1, #meta, 2 do m[meta[i]] = meta[i + 1] end
local is_log = m.epoch and m.seq and m.chain and m.state

local displaced = redis.call('HGET', KEYS[2], ARGV[1]) or ''
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local now = string.format('%.0f', now_ms)
redis.call('ZADD', KEYS[3], now, ARGV[1])
-- A time in the future was written before a clock went back, here or on a former master.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. now, '+inf', 'LIMIT', 0, 16)) do
  redis.call('ZADD', KEYS[3], now, id)
end
if is_log and m.epoch == ARGV[3] and tonumber(ARGV[4]) <= tonumber(m.seq) then
  redis.call('ZADD', KEYS[4], 'GT', ARGV[4], ARGV[1])
end
if is_log and m.state == 'recovering' and m.rec_replid == replid and m.rec_id == ARGV[6] then
  redis.call('HSET', KEYS[5], ARGV[1],
    m.rec_id .. '|' .. ARGV[3] .. '|' .. ARGV[4] .. '|' .. ARGV[5] .. '|' .. ARGV[8])
end
local silent_before = string.format('%.0f', now_ms - tonumber(ARGV[7]))
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', silent_before, 'LIMIT', 0, 16)) do
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
  -- The position of a voter stays true while it is away, and still counts for a majority.
  if not string.find(',' .. (m.voters or '') .. ',', ',' .. id .. ',', 1, true) then
    redis.call('ZREM', KEYS[4], id)
  end
end

local live = redis.call('ZRANGEBYSCORE', KEYS[3], string.format('%.0f', now_ms - 90000), '+inf')
local claim = redis.pcall('HGET', KEYS[6], ARGV[1])
if type(claim) ~= 'string' then claim = '' end
local answer = {'LOST', time_us, role}
if is_log then
  answer = {'HEAD', time_us, role, replid}
  for _, value in ipairs(meta) do answer[#answer + 1] = value end
end
return {answer, displaced, #live, claim}
