-- KEYS jobs meta leases, ready of each type
-- ARGV lease_ms, epoch if there is none, items "id type user token epoch\n"..., name of each type
-- Reply: epoch, then of each item 0 (extended), 1 (extended, to be stopped) or 2 (lost).
local jobs, meta, leases = KEYS[1], KEYS[2], KEYS[3]
local ends = clock() + tonumber(ARGV[1])
local ready = {}
for i = 4, #KEYS do
    ready[ARGV[i]] = KEYS[i]
end
local epoch = call('HGET', meta, 'e')
if not epoch then
    epoch = ARGV[2]
    call('HSET', meta, 'e', epoch)
end

local function take(id, kind, user, token)
    if ready[kind] then
        call('ZREM', ready[kind], id)
    end
    call('HSET', jobs, id, record(kind, user, 'l', token))
    call('HINCRBY', meta, 'r:' .. kind, 1)
    call('ZADD', leases, ends, id)
    return 0
end

local function beat(id, kind, user, token, seen)
    local rec = call('HGET', jobs, id)
    local is_new = seen ~= epoch -- all that was here at the fetch is lost
    if not rec then
        return is_new and take(id, kind, user, token) or 2
    end
    local _, _, state, holder = read(rec)
    if state == 'r' and (holder == token or (is_new and holder == '')) then
        return take(id, kind, user, token)
    end
    if holder ~= token or (state ~= 'l' and state ~= 'c') then
        return 2
    end
    call('ZADD', leases, ends, id)
    return state == 'c' and 1 or 0
end

local reply = {epoch}
for id, kind, user, token, seen in string.gmatch(ARGV[3], '(%S+) (%S+) (%S+) (%S+) (%S+)\n') do
    reply[#reply + 1] = beat(id, kind, user, token, seen)
end
return reply
