-- KEYS jobs meta delayed flows ready; ARGV id, type.
-- Reply: the token of the lease that holds it; nil where nobody does.
local jobs, meta, delayed, flows, ready = unpack(KEYS)
local id = ARGV[1]
local rec = call('HGET', jobs, id)
if not rec then
    return false
end
local kind, user, state, token = read(rec)
if not kind then
    call('HDEL', jobs, id)
    return false
end
if state == 'l' or state == 'c' then
    call('HSET', jobs, id, record(kind, user, 'c', token))
    return token
end
if state == 'd' then
    call('ZREM', delayed, id)
elseif kind == ARGV[2] then
    local flow = kind .. ':' .. user
    local score = tonumber(call('ZSCORE', ready, id) or 0)
    call('ZREM', ready, id)
    -- The artist's latest one gives its turn back; an earlier one has others behind it, which
    -- keep theirs.
    if tonumber(call('HGET', flows, flow) or -1) == score then
        if score - 1 <= tonumber(call('HGET', meta, 'v:' .. kind) or 0) then
            call('HDEL', flows, flow)
        else
            call('HINCRBY', flows, flow, -1)
        end
    end
end
call('HDEL', jobs, id)
return false
