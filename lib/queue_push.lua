-- KEYS jobs meta delayed flows wake ready; ARGV type, cost, items "id user delay_ms\n"...
-- Reply: how many were unknown.
local jobs, meta, delayed, flows, wake, ready = unpack(KEYS)
local kind = ARGV[1]
local n, n_ready = 0, 0
local now, v, h

for id, user, delay in string.gmatch(ARGV[3], '(%S+) (%S+) (%d+)\n') do
    local is_delayed = delay ~= '0'
    if call('HSETNX', jobs, id, record(kind, user, is_delayed and 'd' or 'r', '')) == 1 then
        n = n + 1
        if is_delayed then
            now = now or clock()
            call('ZADD', delayed, now + tonumber(delay), id)
        else
            if not v then
                local m = call('HMGET', meta, 'v:' .. kind, 'h:' .. kind, 'gv')
                v, h = tonumber(m[1] or 0), tonumber(m[2] or '')
                if not h then
                    call('HSET', meta, 'h:' .. kind, tonumber(m[3] or 0) + tonumber(ARGV[2]))
                end
            end
            call('ZADD', ready, charge(flows, kind, user, v), id)
            n_ready = n_ready + 1
        end
    end
end
if n_ready > 0 then
    wake_up(wake, n_ready)
end
return n
