"""The report's pictures, as SVG: latency and failures over time, client beside server."""

import html
import math

WIDTH, LEFT, RIGHT = 960, 64, 16
DECADES = (1, 10, 100, 1000, 10000)


def esc(text):
    return html.escape(str(text))


def number(value):
    """A figure for a person: 3 digits that count."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - int(math.floor(math.log10(abs(value)))))
    return f"{value:.{min(digits, 4)}f}"


def _open(height, label):
    return [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{esc(label)}">']


def _x(seconds, total):
    return LEFT + (WIDTH - LEFT - RIGHT) * seconds / total


def _time_axis(out, total, top, bottom):
    step = next(s for s in (5, 10, 30, 60, 120, 300, 600, 1800, 3600) if total / s <= 12)
    for at in range(0, int(total) + 1, step):
        x = _x(at, total)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        text = f"{at} s" if total < 180 else f"{at // 60}:{at % 60:02d}"
        out.append(f'<text class="axis" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')


def _bands(out, windows, total, top, bottom):
    """What was done to the fleet, as bands with their numbers in the ledger."""
    for i, row in enumerate(windows, 1):
        x, end = _x(row["startS"], total), _x(min(total, row["endS"]), total)
        kind = "band" if row["good"] else "band missed"
        out.append(f'<rect class="{kind}" x="{x:.1f}" y="{top}" width="{max(2, end - x):.1f}" '
                   f'height="{bottom - top}"><title>{esc(row["name"])}: {esc(row["note"])}</title></rect>')
        out.append(f'<text class="mark" x="{x + 3:.1f}" y="{top + 12}">{i}</text>')


def _path(points, kind):
    words = " ".join(f"{'M' if i == 0 else 'L'}{x:.1f},{y:.1f}" for i, (x, y) in enumerate(points))
    return f'<path class="{kind}" d="{words}"/>'


def over_time(bins, bin_s, total, windows, target):
    """bins: [{p50, p99, max, n, failed}] of each bin_s; ms on a logarithmic axis."""
    top, bottom, height = 8, 300, 330
    least, most = 0.5, 20000

    def y(ms):
        share = math.log(min(max(ms, least), most) / least) / math.log(most / least)
        return bottom - (bottom - top) * share
    out = _open(height, "Latency over time")
    _bands(out, windows, total, top, bottom)
    _time_axis(out, total, top, bottom)
    for ms in DECADES:
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(ms):.1f}" y2="{y(ms):.1f}"/>'
                   f'<text class="axis" x="{LEFT - 8}" y="{y(ms) + 4:.1f}" text-anchor="end">'
                   f'{f"{ms} ms" if ms < 1000 else f"{ms // 1000} s"}</text>')
    out.append(f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(target["p99Ms"]):.1f}" '
               f'y2="{y(target["p99Ms"]):.1f}"/><text class="target-text" x="{WIDTH - RIGHT - 4}" '
               f'y="{y(target["p99Ms"]) - 5:.1f}" text-anchor="end">target p99</text>')
    seen = [(i, b) for i, b in enumerate(bins) if b["n"]]
    for key, kind in (("max", "line max"), ("p99", "line p99"), ("p50", "line p50")):
        out.append(_path([(_x((i + 0.5) * bin_s, total), y(b[key])) for i, b in seen], kind))
    return "".join(out + ["</svg>"])


def failures(bins, bin_s, total, windows):
    """Requests and failures of each bin."""
    top, bottom, height = 8, 110, 140
    most = max([b["n"] for b in bins] + [1])
    worst = max([b["failed"] for b in bins] + [1])
    out = _open(height, "Requests and failures over time")
    _bands(out, windows, total, top, bottom)
    _time_axis(out, total, top, bottom)
    width = (WIDTH - LEFT - RIGHT) * bin_s / total
    for i, b in enumerate(bins):
        x = _x(i * bin_s, total)
        tall = (bottom - top - 14) * b["n"] / most
        out.append(f'<rect class="rate" x="{x:.1f}" y="{bottom - tall:.1f}" width="{max(0.5, width - 0.5):.2f}" '
                   f'height="{tall:.1f}"/>')
        if b["failed"]:
            tall = max(3, (bottom - top - 14) * b["failed"] / worst)
            out.append(f'<rect class="failed" x="{x:.1f}" y="{bottom - tall:.1f}" '
                       f'width="{max(1.5, width):.2f}" height="{tall:.1f}"><title>{b["failed"]} of {b["n"]} '
                       f'failed</title></rect>')
    out.append(f'<text class="axis" x="{LEFT - 8}" y="{top + 18}" text-anchor="end">'
               f'{number(most / bin_s)}/s</text>')
    return "".join(out + ["</svg>"])


def histograms(bounds_s, client, server):
    """Shares of requests by the buckets of /metrics, as bars side by side."""
    top, bottom, height = 8, 220, 262
    names = [f"≤ {1000 * b:g} ms" if b < 1 else f"≤ {b:g} s" for b in bounds_s] + ["more"]
    n_client, n_server = max(1, sum(client)), max(1, sum(server))
    used = [i for i in range(len(names)) if client[i] or server[i]]
    first, last = max(0, min(used, default=0)), max(used, default=0)
    shown = range(first, last + 1)
    step = (WIDTH - LEFT - RIGHT) / len(shown)

    def y(share):  # logarithmic, from a millionth to all
        return bottom if share <= 0 else bottom - (bottom - top) * max(0, 6 + math.log10(share)) / 6
    out = _open(height, "Client's and server's histograms")
    for power in range(0, 7, 1):
        share = 10 ** -power
        label = f"{100 * share:g} %"
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share):.1f}" '
                   f'y2="{y(share):.1f}"/><text class="axis" x="{LEFT - 8}" y="{y(share) + 4:.1f}" '
                   f'text-anchor="end">{label}</text>')
    for place, i in enumerate(shown):
        x = LEFT + place * step
        for counts, n, kind, shift in ((client, n_client, "client", 0.12), (server, n_server, "server", 0.5)):
            at = y(counts[i] / n)
            out.append(f'<rect class="{kind}" x="{x + shift * step:.1f}" y="{at:.1f}" '
                       f'width="{0.36 * step:.1f}" height="{bottom - at:.1f}"><title>{kind}, {names[i]}: '
                       f'{counts[i]:,} requests, {100 * counts[i] / n:.4f} %</title></rect>')
        out.append(f'<text class="axis" x="{x + step / 2:.1f}" y="{bottom + 16}" text-anchor="middle">'
                   f'{names[i]}</text>')
    return "".join(out + ["</svg>"])


def cores(rows, total, windows, limit):
    """The generator's cores, and the machine's, over time: rows of (s, generator, machine)."""
    top, bottom, height = 8, 130, 160
    most = max([r[2] for r in rows] + [limit, 1]) * 1.05

    def y(value):
        return bottom - (bottom - top) * min(value, most) / most
    out = _open(height, "Cores in use over time")
    _bands(out, windows, total, top, bottom)
    _time_axis(out, total, top, bottom)
    for value in range(0, int(most) + 1):
        out.append(f'<text class="axis" x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value}'
                   f'{" cores" if value == int(most) else ""}</text>')
    out.append(f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(limit):.1f}" '
               f'y2="{y(limit):.1f}"/><text class="target-text" x="{WIDTH - RIGHT - 4}" y="{y(limit) - 5:.1f}" '
               f'text-anchor="end">bound of the generator</text>')
    out.append(_path([(_x(min(total, s), total), y(machine)) for s, _, machine in rows], "line max"))
    out.append(_path([(_x(min(total, s), total), y(own)) for s, own, _ in rows], "line p99"))
    return "".join(out + ["</svg>"])
