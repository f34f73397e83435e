-- KEYS jobs meta delayed leases wake, ready of each type
-- ARGV done|retry|release, delay_ms, items "id token\n"..., then of each type: name, cost
-- Reply: how many were ours.
local jobs, meta, delayed, leases, wake = unpack(KEYS, 1, 5)
local how, n, n_ready = ARGV[1], 0, 0
local ready, cost = {}, {}
for i = 6, #KEYS do
    local name = ARGV[2 * i - 8]
    ready[name], cost[name] = KEYS[i], tonumber(ARGV[2 * i - 7])
end

-- In front of all: its turn is paid already.
local function put_in_front(id, kind, user)
    local m = call('HMGET', meta, 'v:' .. kind, 'h:' .. kind, 'gv')
    if not tonumber(m[2] or '') then
        call('HSET', meta, 'h:' .. kind, tonumber(m[3] or 0) + cost[kind])
    end
    call('ZADD', ready[kind], tonumber(m[1] or 0), id)
    call('HSET', jobs, id, record(kind, user, 'r', ''))
    n_ready = n_ready + 1
end

for id, token in string.gmatch(ARGV[3], '(%S+) (%S+)\n') do
    local kind, user, state, holder = read(call('HGET', jobs, id) or '')
    if kind and holder == token and ready[kind] then
        n = n + 1
        if state == 'r' then
            call('ZREM', ready[kind], id)
        else
            call('ZREM', leases, id)
            call('HINCRBY', meta, 'r:' .. kind, -1)
        end
        if how == 'done' or state == 'c' then
            call('HDEL', jobs, id)
        elseif how == 'retry' then
            call('ZADD', delayed, clock() + tonumber(ARGV[2]), id)
            call('HSET', jobs, id, record(kind, user, 'd', ''))
        else
            put_in_front(id, kind, user)
        end
    end
end
if n_ready > 0 then
    wake_up(wake, n_ready)
end
return n
