-- KEYS jobs meta delayed leases, ready of each type; ARGV name of each type.
-- Reply: paused, known, delayed, of them due, leased, then of each type: ready, running.
local reply = {call('HGET', KEYS[2], 'p') == '1' and 1 or 0, call('HLEN', KEYS[1]),
               call('ZCARD', KEYS[3]), call('ZCOUNT', KEYS[3], '-inf', clock()),
               call('ZCARD', KEYS[4])}
for i, name in ipairs(ARGV) do
    reply[4 + 2 * i] = call('ZCARD', KEYS[4 + i])
    reply[5 + 2 * i] = tonumber(call('HGET', KEYS[2], 'r:' .. name) or 0)
end
return reply
