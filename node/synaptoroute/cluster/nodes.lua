#!lua flags=no-writes
-- List the nodes with the age of their last heartbeat.
--
-- KEYS  nodes, hb
-- Gives {now_ms, node id, last heartbeat in ms, row, ...}.
local time = redis.call('TIME')
local answer = {tostring(tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))}
answer[1] = string.format('%.0f', tonumber(answer[1]))
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
