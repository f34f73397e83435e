"""The figures as a table for the terminal, and as one self-contained page of HTML with plots."""

import html as escape_html
import json
import os

COLOURS = {"ours": "var(--ours)", "peer": "var(--peer)", "rung": "var(--rung)"}

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5d6878; --line: #d9dee6; --page: #fff;
  --ours: #1f6feb; --peer: #9aa7b8; --rung: #6f9ceb; --good: #1a7f37; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf2; --dim: #97a3b5; --line: #313a47;
  --page: #12171f; --ours: #5c9dff; --peer: #6b7889; --rung: #3f73c4; --good: #4cc267;
  --bad: #ff7b72; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 900px; margin: 2.5rem auto; padding: 0 1rem; }
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
    return f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


def goal(row):
    if row["goal"] is None:
        return ""
    return f"{'≤' if row['goalIs'] == 'atMost' else '≥'} {row['goal']:,g}"


def met(row):
    return {True: "met", False: "MISSED", None: ""}[row["met"]]


def _columns(widths, cells):
    """The first cell to the left, the others to the right."""
    return " ".join([f"{cells[0]:<{widths[0]}.{widths[0]}}"]
                    + [f"{c:>{w}}" for c, w in zip(cells[1:], widths[1:])]).rstrip()


def median(spread):
    return number(spread["median"]) if spread else "–"


def table(summary):
    """Plain text."""
    widths = (62, 10, 10, 10, 10, 9, 7)
    lines = [_columns(widths, ("", "median", "least", "most", "before", "goal", ""))]
    for r in summary["rows"]:
        lines.append(_columns(widths, (f"{r['text']} ({r['unit']})", number(r["median"]),
                                       number(r["low"]), number(r["high"]),
                                       number(r.get("before")), goal(r), met(r))))
    widths = (30, 8, 10, 10, 8, 8, 8, 8, 8, 8)
    lines += ["", _columns(widths, ("ladder", "clients", "requests/s", "/app CPU s", "p50 ms",
                                    "p99 ms"))]
    for r in summary["ladder"]:
        lines.append(_columns(widths, (r["text"], summary["settings"]["clients"],
                                       median(r["perSecond"]), median(r["perCpuSecond"]),
                                       median(r["p50Ms"]), median(r["p99Ms"]))))
    lines += ["", _columns(widths, ("kept per nginx worker", "clients", "requests/s", "/app CPU s",
                                    "p50 ms", "p99 ms", "max ms", "2nd path", "failed", "max ms"))]
    for r in summary["kept"]:
        lines.append(_columns(widths, (r["kept"], r["clients"], median(r["perSecond"]),
                                       median(r["perCpuSecond"]), median(r["p50Ms"]),
                                       median(r["p99Ms"]), number(r["maxMs"]["high"]),
                                       r["secondPassed"], r["secondFailed"],
                                       number(r["secondMaxMs"]))))
    m, s = summary["machine"], summary["settings"]
    lines.append(f"\n{m['cores']} cores, {m['processor']}; load average "
                 f"{m['loadAverage']:.2f} before, "
                 f"{m['loadAverageAfter']:.2f} after; {s['rounds']} rounds of {s['seconds']} s")
    return "\n".join(lines + [f"Note: {n}" for n in summary["notes"]])


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
    for n, (name, value, low, high, colour) in enumerate(items):
        y = n * step + 4
        middle = y + 11
        out += [f'<text x="{label - 10}" y="{y + 16}" text-anchor="end">{text(name)}</text>',
                f'<rect x="{label}" y="{y}" width="{x(value) - label:.1f}" height="22" rx="2" '
                f'fill="{COLOURS[colour]}"/>',
                f'<path d="M{x(low):.1f} {middle}H{x(high):.1f}M{x(low):.1f} {middle - 5}v10'
                f'M{x(high):.1f} {middle - 5}v10" stroke="currentColor" stroke-width="1.4"/>',
                f'<text x="{max(x(high), x(value)) + 8:.1f}" y="{y + 16}">{number(value)}</text>']
    bottom = step * len(items)
    if mark:
        out += [f'<path d="M{x(mark):.1f} 0V{bottom}" stroke="var(--good)" stroke-width="1.5" '
                'stroke-dasharray="4 3"/>',
                f'<text x="{x(mark):.1f}" y="{bottom + 16}" text-anchor="middle" class="dim">'
                f'goal {mark:,g}</text>']
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
    out = ["<table><thead><tr><th>what</th><th>median</th><th>least</th><th>most</th><th>before</th><th>unit</th>"
           "<th>goal</th><th></th></tr></thead><tbody>"]
    for r in summary["rows"]:
        cls = {True: "good", False: "bad", None: ""}[r["met"]]
        out.append(f"<tr><td>{text(r['text'])}</td><td>{number(r['median'])}</td>"
                   f"<td class=dim>{number(r['low'])}</td><td class=dim>{number(r['high'])}</td>"
                   f"<td class=dim>{number(r.get('before'))}</td>"
                   f"<td class=dim>{text(r['unit'])}</td><td>{text(goal(r))}</td>"
                   f"<td class='{cls}'>{met(r)}</td></tr>")
    return "".join(out) + "</tbody></table>"


def peers_html(summary):
    names = (("maxbooster", "maxbooster-api", "ours"), ("go", "Go net/http, pgx, go-redis", "peer"),
             ("fastify", "Fastify 5, pg, ioredis", "peer"), ("express", "Express 5, pg, ioredis", "peer"))
    s = summary["samples"]

    def plot(field, unit, mark=None):
        return bars([(title, *spread_of([x[field] for x in s[name]]), colour)
                     for name, title, colour in names], unit, mark)

    return (figure(plot("perCpuSecond", "requests per CPU second of the app's processes"),
                   "The bar is the median of the rounds, the whisker goes from least to most.")
            + figure(plot("perSecond", "requests/s through nginx, 32 clients", 10000),
                     "All of them with nginx, PostgreSQL, Redis and the load on the same cores. "
                     "Express and Fastify run as one process."))


def ladder_html(summary):
    items = [(r["text"], *of(r["perSecond"]),
              "rung" if r["name"] in ("static", "null") else "ours")
             for r in summary["ladder"]]
    return figure(bars(items, "requests/s, 32 clients"),
                  "Each step adds a layer: the proxy, the protocol, our code, the stores.")


def kept_html(summary):
    out = []
    for clients in sorted({r["clients"] for r in summary["kept"]}):
        rows = [r for r in summary["kept"] if r["clients"] == clients]
        out.append(f"<h3>{clients} clients</h3>")
        for field, unit in (("perSecond", "requests/s"), ("p99Ms", "p99, ms")):
            items = [(r["kept"], *of(r[field]), "ours" if r["isOurs"] else "peer") for r in rows]
            out.append(figure(bars(items, unit), f"{unit}, by connections kept per nginx worker"))
    heads = ("kept", "clients", "requests/s", "per app CPU s", "p50 ms", "p99 ms", "max ms",
             "refused", "second path passed", "failed", "longest ms")
    out.append("<table><thead><tr>" + "".join(f"<th>{h}</th>" for h in heads)
               + "</tr></thead><tbody>")
    for r in summary["kept"]:
        cells = [r["clients"], median(r["perSecond"]), median(r["perCpuSecond"]),
                 median(r["p50Ms"]), median(r["p99Ms"]), number(r["maxMs"]["high"]),
                 r["refused"] + r["failed"], r["secondPassed"], r["secondFailed"],
                 number(r["secondMaxMs"])]
        out.append(f"<tr><td>{text(r['kept'])}</td>"
                   + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    return "".join(out) + "</tbody></table>"


def overload_html(summary):
    storms = summary["overload"]
    heads = ("who", "class", "asked/s", "answered/s", "refused", "failed", "p50 ms", "p99 ms", "longest ms")
    out = ["<h2>Overload</h2><p>An open load of multiples of what was answered at most, one route a class; times count "
           "from when a request should have started. Recovery: from the storm's end until 99 % of a second are "
           "answered again.</p>"]
    for ours, theirs in zip(storms["maxbooster"], storms["express"]):
        out.append(f"<h3>{ours['factor']} × capacity</h3><table><thead><tr>"
                   + "".join(f"<th>{h}</th>" for h in heads) + "</tr></thead><tbody>")
        for who, storm in (("maxbooster-api", ours), ("Express, rate-limiter-flexible", theirs)):
            for name, c in storm["classes"].items():
                cells = [name.replace("_", " "), number(c["asked"] / storms["seconds"]),
                         number(c["answered"] / storms["seconds"]), c["refused"], c["failed"],
                         number(c["p50Ms"]), number(c["p99Ms"]), number(c["maxMs"])]
                out.append(f"<tr><td>{who}</td>" + "".join(f"<td>{x}</td>" for x in cells) + "</tr>")
        out.append("</tbody></table>")
    return "".join(out)


def html(summary):
    m, s = summary["machine"], summary["settings"]
    notes = "".join(f"<p class=bad>{text(n)}</p>" for n in summary["notes"])
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Max Booster: benchmarks</title><style>{STYLE}</style>
<h1>Benchmarks</h1>
<p class=dim>{text(summary['at'])} · {m['cores']} cores, {text(m['processor'])}, Linux
{text(m['kernel'])} · load average {m['loadAverage']:.2f} before,
{m['loadAverageAfter']:.2f} after ·
{s['rounds']} rounds of {s['seconds']} s · {text(' '.join(s['stack']))}</p>{notes}
{rows_html(summary)}
<h2>GET /api/auth/me beside its peers</h2>
<p>The same work on the same servers and data: session and rate in one Redis script, one prepared
read of the user, the same JSON reply (compared byte for byte), one log line.</p>
{peers_html(summary)}
<h2>The ladder</h2>
{ladder_html(summary)}
<h2>Kept connections</h2>
<p>GET /api/auth/me while a second path (the metrics, over connections that are not kept) is asked
ten times a second. “For ever” leaves out that nginx hands connections back after 1 s or 500
requests. Blue is what the stack uses.</p>
{kept_html(summary)}
{overload_html(summary)}
</html>
"""


def write(out, summary):
    """summary.json and report.html, each whole or not at all."""
    for name, page in (("summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n"),
                       ("report.html", html(summary))):
        path = os.path.join(out, name)
        with open(path + ".new", "w", encoding="utf-8") as f:
            f.write(page)
        os.replace(path + ".new", path)
