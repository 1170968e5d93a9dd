#!lua
-- Undo the state ``frozen``, which an operator, or anybody else, wrote into the header.
--
-- KEYS  meta
-- ARGV  channel, node id
-- Returns {'OK', state now}, {'OPEN', state} if it is not frozen, or {'LOST', why}.
-- A recovery that was frozen goes on.  Nothing is appended to a frozen log, so an open one goes on
-- where it was; if the server is another one by now, the nodes begin a ballot.
local m, why = header(KEYS[1])
if not m then return {'LOST', why} end
if m.state ~= 'frozen' then return {'OPEN', m.state} end
local state = m.rec_id == '' and 'open' or 'recovering'
redis.call('HSET', KEYS[1], 'state', state)
redis.pcall('PUBLISH', ARGV[1], 'SR1 B ' .. m.epoch .. ' ' .. m.seq .. ' ' .. m.chain .. ' '
  .. exact(now_us()) .. ' ' .. state .. ' ' .. ARGV[2] .. '\n')
return {'OK', state}
