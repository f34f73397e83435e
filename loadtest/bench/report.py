"""The figures as a table for the terminal, and as one page of HTML with plots, without anything from outside."""

import html as escape_html

COLOURS = {"ours": "var(--ours)", "peer": "var(--peer)", "rung": "var(--rung)"}

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5d6878; --line: #d9dee6; --page: #fff; --ours: #1f6feb;
  --peer: #9aa7b8; --rung: #6f9ceb; --good: #1a7f37; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf2; --dim: #97a3b5; --line: #313a47; --page: #12171f;
  --ours: #5c9dff; --peer: #6b7889; --rung: #3f73c4; --good: #4cc267; --bad: #ff7b72; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 900px;
  margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.4rem 0 .4rem; }
p { max-width: 46rem; } p.dim, td.dim, figcaption { color: var(--dim); }
td + td { white-space: nowrap; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } th { color: var(--dim); font-weight: 600; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
figure { margin: 1rem 0; } svg { width: 100%; height: auto; display: block; }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); } svg .dim { fill: var(--dim); }
"""


def number(value):
    """Three digits that matter, thousands apart."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{round(value, -1 if abs(value) < 100000 else -2):,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def goal(row):
    if row["goal"] is None:
        return ""
    return f"{'≤' if row['goalIs'] == 'atMost' else '≥'} {row['goal']:,g}"


def met(row):
    return {True: "met", False: "MISSED", None: ""}[row["met"]]


def table(summary):
    """Plain text."""
    lines = [f"{'':<62} {'median':>10} {'least':>10} {'most':>10} {'goal':>10}"]
    for r in summary["rows"]:
        lines.append(f"{r['text'] + ' (' + r['unit'] + ')':<62.62} {number(r['median']):>10} {number(r['low']):>10} "
                     f"{number(r['high']):>10} {goal(r):>10}  {met(r)}")
    lines.append(f"\n{'ladder, 32 clients':<42} {'requests/s':>10} {'/app CPU s':>11} {'p50 ms':>9} {'p99 ms':>9}")
    for r in summary["ladder"]:
        per_cpu = number(r["perCpuSecond"]["median"]) if r["perCpuSecond"] else "–"
        lines.append(f"{r['text']:<42} {number(r['perSecond']['median']):>10} {per_cpu:>11} "
                     f"{number(r['p50Ms']['median']):>9} {number(r['p99Ms']['median']):>9}")
    lines.append(f"\n{'kept per nginx worker':<22} {'clients':>7} {'requests/s':>10} {'/app CPU s':>11} {'p50 ms':>8} "
                 f"{'p99 ms':>8} {'max ms':>8}   second path: passed, failed, longest ms")
    for r in summary["kept"]:
        lines.append(f"{r['kept']:<22} {r['clients']:>7} {number(r['perSecond']['median']):>10} "
                     f"{number(r['perCpuSecond']['median']):>11} {number(r['p50Ms']['median']):>8} "
                     f"{number(r['p99Ms']['median']):>8} {number(r['maxMs']['high']):>8}   "
                     f"{r['secondPassed']:>6} {r['secondFailed']:>3} {number(r['secondMaxMs']):>8}")
    m = summary["machine"]
    lines.append(f"\n{m['cores']} cores, {m['processor']}; load average {m['loadAverage']:.2f} before, "
                 f"{m['loadAverageAfter']:.2f} after; {summary['settings']['rounds']} rounds of "
                 f"{summary['settings']['seconds']} s")
    lines += [f"Note: {n}" for n in summary["notes"]]
    return "\n".join(lines)


def text(value):
    return escape_html.escape(str(value))


def bars(items, unit, mark=None):
    """Horizontal bars: items are (label, median, low, high, colour). mark: a line at the goal."""
    label, width, step = 230, 880, 34
    top = max([i[3] for i in items] + ([mark] if mark else [])) * 1.02
    room = width - label - 120
    height = step * len(items) + 26

    def x(value):
        return label + room * value / top

    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{text(unit)}">']
    for n, (name, median, low, high, colour) in enumerate(items):
        y = n * step + 4
        middle = y + 11
        out += [f'<text x="{label - 10}" y="{y + 16}" text-anchor="end">{text(name)}</text>',
                f'<rect x="{label}" y="{y}" width="{x(median) - label:.1f}" height="22" rx="2" '
                f'fill="{COLOURS[colour]}"/>',
                f'<path d="M{x(low):.1f} {middle}H{x(high):.1f}M{x(low):.1f} {middle - 5}v10M{x(high):.1f} '
                f'{middle - 5}v10" stroke="currentColor" stroke-width="1.4"/>',
                f'<text x="{max(x(high), x(median)) + 8:.1f}" y="{y + 16}">{number(median)}</text>']
    bottom = step * len(items)
    if mark:
        out += [f'<path d="M{x(mark):.1f} 0V{bottom}" stroke="var(--good)" stroke-dasharray="4 3" stroke-width="1.5"/>',
                f'<text x="{x(mark):.1f}" y="{bottom + 16}" text-anchor="middle" class="dim">goal {mark:,g}</text>']
    out.append(f'<text x="{label}" y="{bottom + 16}" class="dim">{text(unit)}</text></svg>')
    return "\n".join(out)


def figure(svg, caption):
    return f"<figure>{svg}<figcaption>{text(caption)}</figcaption></figure>"


def of(spread):
    return spread["median"], spread["low"], spread["high"]


def spread_of(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[0], ordered[-1]


def rows_html(summary):
    out = ["<table><thead><tr><th>what</th><th>median</th><th>least</th><th>most</th><th>unit</th>"
           "<th>goal</th><th></th></tr></thead><tbody>"]
    for r in summary["rows"]:
        cls = {True: "good", False: "bad", None: ""}[r["met"]]
        out.append(f"<tr><td>{text(r['text'])}</td><td>{number(r['median'])}</td><td class=dim>{number(r['low'])}"
                   f"</td><td class=dim>{number(r['high'])}</td><td class=dim>{text(r['unit'])}</td>"
                   f"<td>{text(goal(r))}</td><td class='{cls}'>{met(r)}</td></tr>")
    return "".join(out) + "</tbody></table>"


def peers_html(summary):
    names = (("maxbooster", "maxbooster-api", "ours"), ("go", "Go net/http, pgx, go-redis", "peer"),
             ("express", "Express 5, pg, ioredis", "peer"))
    s = summary["samples"]

    def plot(field, unit, mark=None):
        return bars([(title, *spread_of([x[field] for x in s[name]]), colour)
                     for name, title, colour in names], unit, mark)

    return (figure(plot("perCpuSecond", "requests per CPU second of the app's processes"),
                   "The bar is the median of the rounds, the whisker goes from the least to the most.")
            + figure(plot("perSecond", "requests/s through nginx, 32 clients", 10000),
                     "All of them with nginx, PostgreSQL, Redis and the load on the same cores. Express runs as one "
                     "process, which is its best per CPU second."))


def ladder_html(summary):
    items = [(r["text"], *of(r["perSecond"]), "ours" if r["name"] in ("health", "maxbooster") else "rung")
             for r in summary["ladder"]]
    return figure(bars(items, "requests/s, 32 clients"),
                  "Each step adds a layer: the proxy, the protocol, our request handling, and the stores.")


def kept_html(summary):
    out = []
    for clients in sorted({r["clients"] for r in summary["kept"]}):
        rows = [r for r in summary["kept"] if r["clients"] == clients]
        out.append(f"<h3>{clients} clients</h3>")
        for field, unit in (("perSecond", "requests/s"), ("p99Ms", "p99, ms")):
            out.append(figure(bars([(r["kept"], *of(r[field]), "ours" if r["kept"] == "8" else "peer")
                                    for r in rows], unit), f"{unit}, by connections kept per nginx worker"))
    out.append("<table><thead><tr><th>kept</th><th>clients</th><th>requests/s</th><th>per app CPU s</th><th>p50 ms</th>"
               "<th>p99 ms</th><th>max ms</th><th>refused</th><th>second path passed</th><th>failed</th>"
               "<th>longest ms</th></tr></thead><tbody>")
    for r in summary["kept"]:
        cells = [r["clients"], number(r["perSecond"]["median"]), number(r["perCpuSecond"]["median"]),
                 number(r["p50Ms"]["median"]), number(r["p99Ms"]["median"]), number(r["maxMs"]["high"]),
                 r["refused"] + r["failed"], r["secondPassed"], r["secondFailed"],
                 number(r["secondMaxMs"])]
        out.append(f"<tr><td>{text(r['kept'])}</td>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    return "".join(out) + "</tbody></table>"


def html(summary):
    m, s = summary["machine"], summary["settings"]
    notes = "".join(f"<p class=bad>{text(n)}</p>" for n in summary["notes"])
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Max Booster: benchmarks</title><style>{STYLE}</style>
<h1>Benchmarks</h1>
<p class=dim>{text(summary['at'])} · {m['cores']} cores, {text(m['processor'])}, Linux {text(m['kernel'])} · load average
{m['loadAverage']:.2f} before, {m['loadAverageAfter']:.2f} after · {s['rounds']} rounds of {s['seconds']} s ·
{text(' '.join(s['stack']))}</p>{notes}
{rows_html(summary)}
<h2>GET /api/auth/me beside its peers</h2>
<p>The same work on the same servers and data: session and rate in one Redis script, one prepared read of the user, the same
JSON reply (compared byte for byte), one log line.</p>
{peers_html(summary)}
<h2>The ladder</h2>
{ladder_html(summary)}
<h2>Kept connections</h2>
<p>GET /api/auth/me while a second path (the metrics, over connections that are not kept) is asked ten times a second.
“For ever” leaves out that nginx hands connections back after 1 s or 500 requests.</p>
{kept_html(summary)}
</html>
"""
