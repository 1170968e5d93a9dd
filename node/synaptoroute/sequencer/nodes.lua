#!lua flags=no-writes
-- List the nodes with the age of their last heartbeat.
--
-- KEYS  nodes, hb
-- Returns {now_ms, node id, last heartbeat in ms, report, ...}.
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local answer = {string.format('%.0f', now_ms)}
local heard = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for i = 1, #heard, 2 do
  local row = redis.call('HGET', KEYS[1], heard[i])
  if row then
    answer[#answer + 1] = heard[i]
    answer[#answer + 1] = string.format('%.0f', tonumber(heard[i + 1]))
    answer[#answer + 1] = row
  end
end
return answer
