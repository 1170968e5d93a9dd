-- The action `route`: asks the nodes for the route of the last user message of a chat request and
-- puts its name into the variable txn.route. Needs HAProxy 2.6 or later, built with Lua.

local TIMEOUT_MS = 400
local DEADLINE_MS = 200
local MESSAGES_MAX = 200
local TEXT_BYTES_MAX = 8192

-- A JSON string of a text.
local function quoted(text)
    return '"' .. text:gsub('[%c"\\]', function(c)
        return string.format("\\u%04x", c:byte())
    end) .. '"'
end

-- The content of the last message of the role user; nil if there is none. Content that is a list
-- of parts is not read.
local function last_user_message(txn, body)
    local found
    for index = 0, MESSAGES_MAX - 1 do
        local path = "$.messages[" .. index .. "]"
        local role = txn.c:json_query(body, path .. ".role")
        if role == nil or role == "" then
            break
        end
        if role == "user" then
            found = txn.c:json_query(body, path .. ".content")
        end
    end
    if found ~= nil and #found > 0 and #found <= TEXT_BYTES_MAX and found:sub(1, 1) ~= "[" then
        return found
    end
end

core.register_action("route", { "http-req" }, function(txn)
    local body = txn.sf:req_body()
    local text = body and last_user_message(txn, body)
    if not text then
        return
    end
    local answer = core.httpclient():post({
        url = "http://nodes/v1/query",
        dst = "abns@synaptoroute", -- the section `nodes` of haproxy.cfg
        headers = { ["content-type"] = { "application/json" } },
        body = '{"text":' .. quoted(text) .. ',"deadline_ms":' .. DEADLINE_MS .. "}",
        timeout = TIMEOUT_MS,
    })
    if answer == nil or answer.status ~= 200 then
        return
    end
    local route = txn.c:json_query(answer.body, "$.route")
    if route ~= nil and route ~= "" then
        txn:set_var("txn.route", route)
    end
end, 0)
