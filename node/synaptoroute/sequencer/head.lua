#!lua flags=no-writes
-- Read the head of the log.
--
-- KEYS  meta
-- Returns {'LOST', time_us, role, why} or {'HEAD', time_us, role, replid, field, value, ...}.
-- ``why`` names what is wrong with the header; it is empty if there is none.
local replid, role = replication()
local time_us = exact(now_us())
local m, why = header(KEYS[1])
if not m then return {'LOST', time_us, role, why} end
local answer = {'HEAD', time_us, role, replid}
for name, value in pairs(m) do
  answer[#answer + 1], answer[#answer + 2] = name, value
end
return answer
