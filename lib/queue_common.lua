-- Part of every script of the queue.
--
-- jobs     HASH  id -> type|user|state|token
--                state: r ready, d delayed, l leased, c leased and to be stopped
-- meta     HASH  e epoch, p paused, gv clock of the types, and of each type:
--                v clock of its artists, h its turn among the types (set while it has work),
--                r how many run
-- delayed  ZSET  id -> when it is due (ms)
-- leases   ZSET  id -> when the lease ends (ms)
-- flows    HASH  type:user -> virtual finish time of the artist's latest job
-- wake     LIST  a token for each sleeper who should look
-- ready    ZSET  one per type: id -> virtual finish time
local call = redis.call

local function clock()
    local t = call('TIME')
    return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function read(record)
    return string.match(record, '^([^|]*)|([^|]*)|(%a)|(.*)$')
end

local function record(kind, user, state, token)
    return kind .. '|' .. user .. '|' .. state .. '|' .. token
end

-- Virtual finish time of one more job of the artist: behind his own jobs, but never before the
-- clock, so that who has nothing waiting stands beside the others' next job, not behind them all.
local function charge(flows, kind, user, v)
    local flow = kind .. ':' .. user
    local f = call('HINCRBY', flows, flow, 1)
    if f <= v then
        f = v + 1
        call('HSET', flows, flow, f)
    end
    return f
end

-- At most as many tokens as there may be sleepers; the sleepers' own time limit covers the rest.
local function wake_up(wake, n)
    local have = call('LLEN', wake)
    for _ = have + 1, math.min(n, 64) do
        call('LPUSH', wake, '1')
    end
end
