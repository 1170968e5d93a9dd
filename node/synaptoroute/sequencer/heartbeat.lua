#!lua flags=allow-oom
-- Report a node and its position; return the head of the log.
--
-- KEYS  meta, nodes, hb, pos:<node's epoch>, rec, claims, log:<node's epoch>
-- ARGV  node id, report (JSON), epoch, seq, chain, promise, forget_ms, voters
-- Returns {answer of head.lua, the row that was replaced, count of live nodes, claim of another
-- process on this identity}.  The head has the field ``is_torn`` if the stream of an open log does
-- not have as many entries as its header says.  If the node has promised the current ballot, this
-- is also its report to the ballot.  Allowed over maxmemory: the rows replace older ones, and a
-- node that cannot report would be taken for dead.
local replid, role = replication()
local time_us = now_us()
local now_ms = math.floor(time_us / 1000)
local m, why = header(KEYS[1])

local displaced = read('HGET', KEYS[2], ARGV[1]) or ''
write('HSET', KEYS[2], ARGV[1], ARGV[2])
local now = exact(now_ms)
write('ZADD', KEYS[3], now, ARGV[1])
-- A time in the future was written before a clock went back, here or on a former master.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. now, '+inf', 'LIMIT', 0, 16)) do
  redis.call('ZADD', KEYS[3], now, id)
end
if m and m.epoch == ARGV[3] and tonumber(ARGV[4]) <= tonumber(m.seq) then
  -- GT: reports may arrive out of order.  A score that is no place would never be replaced.
  local held = tonumber(read('ZSCORE', KEYS[4], ARGV[1]) or '0')
  if held and held < 2 ^ 53 then
    write('ZADD', KEYS[4], 'GT', ARGV[4], ARGV[1])
  else
    write('ZADD', KEYS[4], ARGV[4], ARGV[1])
  end
end
if m and m.state == 'recovering' and m.rec_replid == replid and m.rec_id == ARGV[6] then
  write('HSET', KEYS[5], ARGV[1],
    m.rec_id .. '|' .. ARGV[3] .. '|' .. ARGV[4] .. '|' .. ARGV[5] .. '|' .. ARGV[8])
end
local silent_before = exact(now_ms - tonumber(ARGV[7]))
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', silent_before, 'LIMIT', 0, 16)) do
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
  -- The position of a voter stays true while it is away, and still counts for a majority.
  if not string.find(',' .. (m and m.voters or '') .. ',', ',' .. id .. ',', 1, true) then
    write('ZREM', KEYS[4], id)
  end
end

local live = redis.call('ZRANGEBYSCORE', KEYS[3], exact(now_ms - 120000), '+inf')
local claim = read('HGET', KEYS[6], ARGV[1]) or ''
if not m then return {{'LOST', exact(time_us), role, why}, displaced, #live, claim} end
local head = {'HEAD', exact(time_us), role, replid}
for name, value in pairs(m) do
  head[#head + 1], head[#head + 2] = name, value
end
if m.state == 'open' and m.replid == replid and m.epoch == ARGV[3] then
  local length = read('XLEN', KEYS[7])
  if length ~= tonumber(m.seq) - tonumber(m.floor) + 1 then
    head[#head + 1], head[#head + 2] = 'is_torn', KEYS[7]
  end
end
return {head, displaced, #live, claim}
