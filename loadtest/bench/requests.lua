-- wrk: the same GET with one session after another; the outcome is a JSON line after "RESULT".
-- Arguments behind --: a file with one token a line ("-": none).
local requests, at = {}, 0

function init(args)
    if args[1] == nil or args[1] == "-" then
        requests[1] = wrk.format("GET")
        return
    end
    for token in io.lines(args[1]) do
        requests[#requests + 1] = wrk.format("GET", nil, {["Authorization"] = "Bearer " .. token})
    end
end

-- Formatted once: wrk shares the machine with what it measures.
function request()
    at = at % #requests + 1
    return requests[at]
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format(
        'RESULT {"requests":%d,"us":%d,"refused":%d,"failed":%d,"timeouts":%d,'
            .. '"p50Us":%d,"p99Us":%d,"maxUs":%d}\n',
        summary.requests, summary.duration, e.status, e.connect + e.read + e.write, e.timeout,
        latency:percentile(50), latency:percentile(99), latency.max))
end
