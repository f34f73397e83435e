// One instance, as it tells of itself: /metrics and /api/system/status of this inner address, asked every
// two seconds. Nothing is kept; history is Prometheus' business.
"use strict";

const EVERY_MS = 2000, POINTS = 150;
const DURATION = "http_server_request_duration_seconds";
const history = { rate: [], time: [] };
let before = null;

// "name{a="b"} 1" lines as [{name, labels, value}].
function parse(text) {
    const samples = [];
    for (const line of text.split("\n")) {
        const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
        if (found) {
            const labels = {};
            for (const pair of (found[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[pair[1]] = pair[2];
            samples.push({ name: found[1], labels, value: Number(found[3]) });
        }
    }
    return samples;
}

function sum(samples, name) {
    return samples.filter(s => s.name === name && !/^GET \/(metrics|api\/system)/.test(s.labels.http_route || ""))
        .reduce((total, s) => total + s.value, 0);
}

// Rows of texts; a cell that is a number stands to the right.
function fill(id, rows, head) {
    const table = document.getElementById(id);
    table.replaceChildren();
    for (const [i, row] of (head ? [head, ...rows] : rows).entries()) {
        const tr = table.insertRow();
        for (const cell of row) {
            const td = document.createElement(head && i === 0 ? "th" : "td");
            const { text, kind } = typeof cell === "object" ? cell : { text: cell };
            td.textContent = typeof text === "number" ? text.toLocaleString("en", { maximumFractionDigits: 3 }) : text;
            td.className = (typeof text === "number" ? "number " : "") + (kind || "");
            tr.append(td);
        }
    }
}

function draw(id, values, unit) {
    const most = Math.max(...values, 1e-9);
    const points = values.map((v, i) => `${300 * i / (POINTS - 1)},${58 - 56 * v / most}`).join(" ");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", points);
    document.getElementById(id).replaceChildren(line);
    const now = values.at(-1) ?? 0;
    document.getElementById(id + "-now").textContent = `${now.toFixed(1)} ${unit} now, ${most.toFixed(1)} at most`;
}

function note(list, value) {
    list.push(value);
    if (list.length > POINTS) list.shift();
}

function showRoutes(samples) {
    const routes = new Map();
    for (const s of samples.filter(x => x.name.startsWith(DURATION))) {
        const r = routes.get(s.labels.http_route) || { count: 0, bad: 0, seconds: 0 };
        if (s.name === DURATION + "_count") {
            r.count += s.value;
            if (s.labels.status_class === "5xx") r.bad += s.value;
        }
        if (s.name === DURATION + "_sum") r.seconds += s.value;
        routes.set(s.labels.http_route, r);
    }
    fill("routes", [...routes].sort((a, b) => b[1].count - a[1].count).map(([route, r]) =>
        [route, r.count, { text: r.bad, kind: r.bad ? "bad" : "" }, 1000 * r.seconds / Math.max(r.count, 1)]),
    ["route", "requests", "5xx", "mean ms"]);
}

function show(samples, status) {
    const now = { at: performance.now(), count: sum(samples, DURATION + "_count"), seconds: sum(samples, DURATION + "_sum") };
    if (before && now.count >= before.count) {
        const requests = now.count - before.count;
        note(history.rate, 1000 * requests / (now.at - before.at));
        note(history.time, requests ? 1000 * (now.seconds - before.seconds) / requests : 0);
        draw("rate", history.rate, "requests/s");
        draw("time", history.time, "ms");
    }
    before = now;
    fill("checks", Object.entries(status.checks).map(([name, c]) =>
        [name, { text: c.status, kind: c.status === "ok" ? "good" : "bad" }, c.latencyMs === null ? "" : `${c.latencyMs} ms`]));
    fill("layers", samples.filter(s => s.name === "maxbooster_layer_active").map(s =>
        [s.labels.layer, { text: s.value ? "acts" : "rests", kind: s.value ? "bad" : "good" }]));
    fill("rest", samples.filter(s => !s.name.startsWith(DURATION) && s.name !== "maxbooster_layer_active").map(s =>
        [s.name, Object.entries(s.labels).map(([k, v]) => `${k}=${v}`).join(" "), s.value]));
    showRoutes(samples);
    const state = document.getElementById("state");
    state.textContent = `${status.status}, degradation ${status.degradation.level}, version ${status.version}, ` +
        `phase ${status.phase}, configuration ${status.configEpoch}`;
    state.className = status.status === "ok" ? "" : "bad";
}

async function round() {
    try {
        const [metrics, status] = await Promise.all([fetch("/metrics"), fetch("/api/system/status")]);
        show(parse(await metrics.text()), await status.json());
    } catch (fault) {
        document.getElementById("state").textContent = `does not answer: ${fault.message}`;
        document.getElementById("state").className = "bad";
    }
    setTimeout(round, EVERY_MS);
}

round();
