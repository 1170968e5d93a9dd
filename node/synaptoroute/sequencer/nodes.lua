#!lua flags=no-writes
-- List the nodes with the age of their last heartbeat.
--
-- KEYS  nodes, hb
-- Returns {now_ms, node id, last heartbeat in ms, report, ...}.
local answer = {exact(math.floor(now_us() / 1000))}
local heard = read('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES') or {}
for i = 1, #heard, 2 do
  local row, at = read('HGET', KEYS[1], heard[i]), tonumber(heard[i + 1])
  if row and at and at >= 0 and at < 2 ^ 53 then
    answer[#answer + 1] = heard[i]
    answer[#answer + 1] = exact(at)
    answer[#answer + 1] = row
  end
end
return answer
