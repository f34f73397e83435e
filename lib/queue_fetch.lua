-- KEYS jobs meta delayed leases flows wake, ready of each type
-- ARGV lease_ms, max, token, epoch if there is none,
--      then of each type: name, limit (0: not asked for), cost
-- Reply: epoch, paused, promoted, recovered, more due, ms until something is due (-1 nothing),
--        then of each job leased: id, type, user.
local jobs, meta, delayed, leases, flows, wake = unpack(KEYS, 1, 6)
local lease_ms, max, token = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local BOUND = 64 -- delays and leases looked at in one call
local now = clock()
local types, by_name, changed = {}, {}, {}
local fields = {'e', 'p', 'gv'}

for i = 1, #KEYS - 6 do
    local a = 2 + 3 * i
    local name = ARGV[a]
    local t = {name = name, ready = KEYS[6 + i],
               limit = tonumber(ARGV[a + 1]), cost = tonumber(ARGV[a + 2])}
    types[i], by_name[name] = t, t
    fields[3 * i + 1], fields[3 * i + 2] = 'v:' .. name, 'h:' .. name
    fields[3 * i + 3] = 'r:' .. name
end
local m = call('HMGET', meta, unpack(fields))
local epoch, paused, gv = m[1], m[2] == '1', tonumber(m[3] or 0)
for i, t in ipairs(types) do
    t.v, t.r = tonumber(m[3 * i + 1] or 0), tonumber(m[3 * i + 3] or 0)
    t.h = tonumber(m[3 * i + 2] or '')
end

local function change(field, value)
    changed[#changed + 1] = field
    changed[#changed + 1] = value
end
if not epoch then
    epoch = ARGV[4]
    change('e', epoch)
end

local function has_work(t)
    if not t.h then
        t.h = gv + t.cost
        t.touched = true
    end
end

-- Delayed jobs whose time has come. A type that only a newer release knows is left to it.
local due = call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, BOUND)
local promoted = 0
for _, id in ipairs(due) do
    local rec = call('HGET', jobs, id)
    local kind, user = read(rec or '')
    local t = by_name[kind or '']
    if kind and not t then
        call('ZADD', delayed, now + lease_ms, id)
    else
        call('ZREM', delayed, id)
        if rec and not t then
            call('HDEL', jobs, id) -- no record of ours
        elseif rec then
            call('ZADD', t.ready, charge(flows, kind, user, t.v), id)
            call('HSET', jobs, id, record(kind, user, 'r', ''))
            has_work(t)
            promoted = promoted + 1
        end
    end
end

-- Leases that ended: back in front, free of charge; the token stays, so that a holder who was only
-- late may have it back as long as nobody else does.
local late = call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, BOUND)
local recovered = 0
for _, id in ipairs(late) do
    local rec = call('HGET', jobs, id)
    local kind, user, state, old = read(rec or '')
    local t = by_name[kind or '']
    if kind and not t then
        call('ZADD', leases, now + lease_ms, id)
    else
        call('ZREM', leases, id)
        if rec and not t then
            call('HDEL', jobs, id)
        elseif rec then
            t.r, t.touched = t.r - 1, true
            if state == 'c' then
                call('HDEL', jobs, id)
            else
                call('ZADD', t.ready, t.v, id)
                call('HSET', jobs, id, record(kind, user, 'r', old))
                has_work(t)
                recovered = recovered + 1
            end
        end
    end
end

-- The type whose turn comes first, of those that are asked for, have work and are below their
-- limit.
local function next_type()
    local best
    for _, t in ipairs(types) do
        if t.h and t.r < t.limit and (not best or t.h < best.h) then
            best = t
        end
    end
    return best
end

local reply = {epoch, paused and 1 or 0, promoted, recovered,
               (#due == BOUND or #late == BOUND) and 1 or 0, -1}
local taken, records, ends = 0, {}, {}
while taken < max and not paused do
    local t = next_type()
    if not t then
        break
    end
    local head = call('ZPOPMIN', t.ready)
    local id, score = head[1], tonumber(head[2] or 0)
    local rec = id and call('HGET', jobs, id)
    local kind, user = read(rec or '')
    t.touched = true
    if not id then
        t.h = nil
    elseif rec and (not kind or #id ~= 36) then
        call('HDEL', jobs, id) -- what is no job wedges nothing
    elseif rec then
        local flow = kind .. ':' .. user
        t.v = math.max(t.v, score)
        if tonumber(call('HGET', flows, flow) or 0) <= t.v then
            call('HDEL', flows, flow) -- his last one: no different from an artist without history
        end
        -- From the clock on, so that a type that was at its limit makes up for one turn, not all.
        local h = t.h
        t.h = math.max(h, gv) + t.cost
        gv = math.max(gv, h)
        t.r = t.r + 1
        taken = taken + 1
        records[2 * taken - 1], records[2 * taken] = id, record(kind, user, 'l', token)
        ends[2 * taken - 1], ends[2 * taken] = now + lease_ms, id
        local n = #reply
        reply[n + 1], reply[n + 2], reply[n + 3] = id, kind, user
    end
end
if taken > 0 then
    call('HSET', jobs, unpack(records))
    call('ZADD', leases, unpack(ends))
    change('gv', gv)
else
    for _, key in ipairs({delayed, leases}) do
        local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
        if first and (reply[6] < 0 or first - now < reply[6]) then
            reply[6] = math.max(0, first - now)
        end
    end
end

-- Asked only to tend: with nothing waiting, nobody's history matters; with nothing leased, nothing
-- runs.
if max == 0 then
    local waiting = 0
    local is_idle = call('ZCARD', leases) == 0
    for _, t in ipairs(types) do
        waiting = waiting + call('ZCARD', t.ready)
        if is_idle and t.r ~= 0 then
            t.r, t.touched = 0, true
        end
    end
    if waiting == 0 then
        call('DEL', flows)
    end
end

for _, t in ipairs(types) do
    if t.touched then
        change('v:' .. t.name, t.v)
        change('h:' .. t.name, t.h or '')
        change('r:' .. t.name, t.r)
    end
end
if #changed > 0 then
    call('HSET', meta, unpack(changed))
end
if promoted + recovered > taken then
    wake_up(wake, promoted + recovered - taken)
end
return reply
