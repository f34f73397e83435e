"""report.html: one file, no script, nothing loaded from elsewhere."""

import plots
import stats
from plots import esc, number

STYLE = """
:root{--ink:#1c2430;--soft:#5b6675;--line:#dfe4ea;--back:#fff;--card:#f6f8fa;--blue:#1f6feb;--sky:#8bb8f5;
--grey:#aab4c0;--red:#c9302c;--green:#1a7f4b;--band:#f2b84b;--violet:#7a5bc7}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#9aa6b5;--line:#2c3540;--back:#12171d;
--card:#1a2129;--blue:#5a9bff;--sky:#2f5f9e;--grey:#5b6675;--red:#f0706b;--green:#4fc487;--band:#a77a1d;
--violet:#a48be8}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1060px;padding:32px 24px 64px;background:var(--back);
color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:40px 0 8px}p{margin:6px 0;max-width:80ch}
.soft{color:var(--soft)}.badge{display:inline-block;padding:2px 14px;border-radius:99px;color:#fff;
font-weight:600;font-size:17px;vertical-align:3px;margin-right:10px}.yes{background:var(--green)}
.no{background:var(--red)}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));
gap:12px;margin:20px 0}.card{background:var(--card);border-radius:10px;padding:14px 16px}
.card b{display:block;font-size:26px;line-height:1.2;font-variant-numeric:tabular-nums}
.card small{color:var(--soft)}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--soft);font-size:13px}
td,th{padding:6px 10px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
.r{text-align:right;white-space:nowrap}.ok{color:var(--green);font-weight:600}.bad{color:var(--red);font-weight:600}
svg{width:100%;height:auto;display:block;margin:6px 0}.grid{stroke:var(--line);stroke-width:1}
.axis{fill:var(--soft);font-size:11px}.mark{fill:var(--ink);font-size:11px;font-weight:600}
.band{fill:var(--band);opacity:.22}.band.missed{fill:var(--red);opacity:.25}
.line{fill:none;stroke-width:1.6;stroke-linejoin:round}.p99{stroke:var(--blue)}.p50{stroke:var(--violet)}
.max{stroke:var(--grey);stroke-width:1}.target{stroke:var(--red);stroke-dasharray:5 4}
.target-text{fill:var(--red);font-size:11px}.rate{fill:var(--sky);opacity:.6}.failed{fill:var(--red)}
.client{fill:var(--blue)}.server{fill:var(--violet)}.key{margin-right:16px;white-space:nowrap}
.key i{display:inline-block;width:22px;height:0;border-top:3px solid;vertical-align:4px;margin-right:5px}
.bar{background:var(--line);border-radius:3px;height:8px;min-width:90px}.bar div{height:8px;
border-radius:3px;background:var(--green)}.bar .over{background:var(--red)}
@media print{body{max-width:none}}
"""


def key(name, colour):
    return f'<span class="key"><i style="border-color:var(--{colour})"></i>{esc(name)}</span>'


def mark(good):
    return '<td class="ok">met</td>' if good else '<td class="bad">missed</td>'


def share(value):
    return f"{100 * value:.4f} %".replace(".0000", "")


def between(pair, form=number):
    return f"{form(pair[0])} … {form(pair[1])}" if pair else "–"


def _head(s):
    good = s["pass"]
    word = "passes" if good else "does not pass" if s["isWhole"] else "no verdict"
    return (f'<h1><span class="badge {"yes" if good else "no"}">{word}</span>Phase {s["phase"]} under load</h1>'
            f'<p>{esc(s["scope"])}</p><p class="soft">{esc(s["at"])} · profile {esc(s["profile"])}, '
            f'{s["warmupS"]} + {s["seconds"]} s · API {s["topology"]["instances"]} × {s["topology"]["apiProcesses"]} processes × '
            f'{s["topology"]["apiThreads"]} threads, PostgreSQL {s["topology"]["databases"]} (shards: '
            f'{s["topology"]["shards"]}, replicas: {s["topology"]["replicas"]}), Redis {s["topology"]["redis"]}, '
            f'workers {len(s["topology"]["workers"])} · {s["machine"]["cpus"]} CPUs, all of it and the '
            f'generator on one machine</p>')


def _cards(s):
    i = s["intervals"]
    cells = [("average", f"{number(s['avgMs'])} ms", f"target {s['target']['avgMs']} ms · 95 %: "
              + between(i["avgMs"].get("blocks95"))),
             ("p99", f"{number(s['p99Ms'])} ms", f"target {s['target']['p99Ms']} ms · 95 %: "
              + between(i["p99Ms"].get("blocks95") or i["p99Ms"]["order95"])),
             ("availability", share(s["availability"]), f"target {share(s['target']['availability'])} · 95 %: "
              + between(i["availability"]["wilson95"], share)),
             ("requests", f"{s['requests']:,}", f"{number(s['ratePerS'])} a second · "
              f"{s['failed']:,} failed · {s['droppedIterations']} dropped")]
    return '<div class="cards">' + "".join(
        f'<div class="card">{esc(name)}<b>{esc(value)}</b><small>{esc(more)}</small></div>'
        for name, value, more in cells) + "</div>"


def _verdict(s):
    rows = "".join(
        f'<tr><td>{esc(r["name"])}</td><td class="r">'
        f'{share(r["value"]) if r["name"] == "availability" else number(r["value"])} {esc(r["unit"])}</td>'
        f'<td class="r">{r["sign"]} {share(r["target"]) if r["name"] == "availability" else number(r["target"])}'
        f'</td>{mark(r["good"])}</tr>' for r in s["verdict"])
    return ('<h2>What must hold</h2><table><tr><th></th><th class="r">measured</th><th class="r">bound</th>'
            f"<th></th></tr>{rows}</table>")


def _bins(samples, total, bin_s):
    groups = [[] for _ in range(int(total / bin_s) + 1)]
    failed = [0] * len(groups)
    for at, ms, good in zip(samples.at, samples.ms, samples.good):
        i = min(len(groups) - 1, max(0, int(at / bin_s)))
        groups[i].append(ms)
        failed[i] += not good
    told = []
    for ms, bad in zip(groups, failed):
        ms.sort()
        told.append({"n": len(ms), "failed": bad, "max": ms[-1] if ms else 0,
                     "p50": stats.quantile(ms, 0.5) if ms else 0, "p99": stats.quantile(ms, 0.99) if ms else 0})
    return told[:-1] if not told[-1]["n"] else told


def _ledger(s):
    rows = []
    for i, r in enumerate(s["ledger"], 1):
        is_window = r["startS"] is not None
        spent = r["failed"] / r["budget"] if r["budget"] else (0 if not r["failed"] else 2)
        told = f'{esc(r["note"])}' + (f'<br><span class="bad">{esc(r["error"])}</span>' if r["error"] else "")
        if r["recoveredS"] is not None:
            told += f' <span class="soft">recovered in {number(r["recoveredS"])} s</span>'
        when = f'{number(r["startS"])} – {number(r["endS"])} s' if is_window else ""
        rows.append(
            f'<tr><td>{i if is_window else ""}</td><td><b>{esc(r["name"])}</b><br>{told}</td>'
            f'<td class="r">{when}</td><td class="r">{r["requests"]:,}</td><td class="r">{r["failed"]:,}</td>'
            f'<td class="r">{number(r["budget"])}</td><td><div class="bar"><div '
            f'class="{"over" if spent > 1 else ""}" style="width:{min(100, 100 * spent):.0f}%"></div></div></td>'
            f'<td class="r">{number(r["p99Ms"])}</td>{mark(r["good"])}</tr>')
    budget = (1 - s["target"]["availability"]) * s["requests"]
    return (f'<h2>Error budget</h2><p>{share(1 - s["target"]["availability"])} of {s["requests"]:,} requests '
            f'may fail: {number(budget)}. {s["failed"]:,} did. Each fault has its share of that; what is to '
            'cost nothing has 0. A fault owns the requests that were meant to start while it lasted and '
            'shortly after.</p><table><tr><th></th><th>what was done</th><th class="r">window</th>'
            '<th class="r">requests</th><th class="r">failed</th><th class="r">budget</th><th>spent</th>'
            f'<th class="r">p99 ms</th><th></th></tr>{"".join(rows)}</table>')


def _by_name(s):
    rows = "".join(
        f'<tr><td>{esc(name)}</td><td class="r">{r["n"]:,}</td><td class="r">{r["failed"]:,}</td>'
        + "".join(f'<td class="r">{number(r[k])}</td>' for k in ("avgMs", "p50Ms", "p99Ms", "maxMs")) + "</tr>"
        for name, r in s["byName"].items())
    why = "".join(f"<li>{esc(word)}: {n:,}</li>" for word, n in list(s["failures"].items())[:12])
    return ('<h2>By request</h2><table><tr><th></th><th class="r">n</th><th class="r">failed</th>'
            '<th class="r">avg ms</th><th class="r">p50</th><th class="r">p99</th><th class="r">max</th></tr>'
            f"{rows}</table>" + (f"<p>Failures (request, status, word):</p><ul>{why}</ul>" if why else ""))


def _cpu(s):
    total = sum(s["cpuSeconds"].values())
    rows = "".join(
        f'<tr><td>{esc(tier)}</td><td class="r">{number(used)}</td><td class="r">'
        f'{number(1e6 * used / s["requests"])}</td><td class="r">{number(100 * used / total)} %</td></tr>'
        for tier, used in sorted(s["cpuSeconds"].items(), key=lambda item: -item[1]))
    return ('<table><tr><th>tier</th><th class="r">CPU s</th><th class="r">µs a request</th>'
            f'<th class="r">share</th></tr>{rows}</table>')


NOTES = """
<h2>How to read this</h2>
<p><b>Latency</b> counts from when a request should have started, at fixed times whatever the answers before
took (open model): lateness of the generator, connecting, waiting and the whole answer are in it. Client and
server share one machine: there is no network between them.</p>
<p><b>Failed</b> is every first answer that was not the expected status with the expected content: 5xx, 429,
4xx, time-outs (10 s; S3 30 s), broken connections. Nothing is tried again by the test; the HTTP client
underneath sends a safe request, or one with an Idempotency-Key, once more where a kept connection ended
before any answer, as RFC 9110 (9.2.2) allows and browsers do.</p>
<p><b>Intervals</b>: for availability Wilson's; for average and p99 a bootstrap over blocks of 10 s, since
slow and failed requests come in bunches. summary.json also has the p99's by order statistics, and the
availability's by blocks.</p>
<p><b>The server's histogram</b> is /metrics of all instances over the run: from accept to the last byte
handed to the proxy. It lacks what never reached an instance, requests to S3, and time spent in the proxy
and in the generator; so the client's is the one that is judged.</p>
<p>samples.csv.gz beside this file has every request: count again.</p>
"""


def page(summary, samples, watch):
    s, total = summary, summary["seconds"] + summary["warmupS"]
    bin_s = 1 if total <= 120 else 5 if total <= 1800 else 60
    bins = _bins(samples, total, bin_s)
    windows = [r for r in s["ledger"] if r["startS"] is not None]
    server = s["server"]
    client = stats.cumulative((ms / 1000 for name, ms in zip(samples.name, samples.ms)
                               if not name.startswith("s3_")), server["boundsS"])
    generator = s["generator"]
    body = [
        _head(s), _cards(s), _verdict(s),
        f"<h2>Latency over time</h2><p>{key('p50', 'violet')}{key('p99', 'blue')}{key('slowest', 'grey')}"
        f"{key('fault, by its number below', 'band')}<span class='soft'>of each {bin_s} s</span></p>",
        plots.over_time(bins, bin_s, total, windows, s["target"]),
        f"<p>{key('requests', 'sky')}{key('failed (own scale)', 'red')}</p>",
        plots.failures(bins, bin_s, total, windows), _ledger(s),
        "<h2>Client beside server</h2>"
        f"<p>{key('client', 'blue')}{key('server', 'violet')}<span class='soft'>shares of requests to the API, on a "
        f"logarithmic scale · client {number(s['avgMs'])} ms on average (S3 included), server "
        f"{number(server['avgMs'])} ms over {server['n']:,} requests</span></p>",
        plots.histograms(server["boundsS"], client, server["counts"]),
        "<h2>Cores</h2>"
        f"<p>{key('generator', 'blue')}{key('machine', 'grey')}<span class='soft'>generator "
        f"{number(generator['cores'])} cores on average, {number(generator['coresMax'])} in its busiest 5 s; "
        f"the whole machine {number(s['machineCores'])} of {s['machine']['cpus']}, of which other work "
        f"{number(s['foreignCores'])}</span></p>",
        plots.cores(watch.rows, total, windows, 0.7), _cpu(s), _by_name(s),
        f"<h2>Data</h2><p>{s['seeded']['users']:,} users with a session each, {s['seeded']['tracks']:,} tracks, "
        f"{s['seeded']['jobs']:,} jobs, {s['seeded']['databaseBytes'] >> 20:,} MB in PostgreSQL, seed "
        f"{s['seeded']['seed']}. While the load ran {s['jobs']['promised']:,} jobs were promised and "
        f"{s['jobs']['completed']:,} completed.</p>", NOTES]
    return ("<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
            f"content='width=device-width,initial-scale=1'><title>Phase {s['phase']}: "
            f"{'passes' if s['pass'] else 'no pass'}</title><style>{STYLE}</style></head><body>"
            + "".join(body) + "</body></html>\n")
