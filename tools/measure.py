#!/usr/bin/python3
"""Measure C sources: lengths, branches, columns, frees, gotos, comments of headers.

usage: measure.py [DIR...]       (default: lib fcgi handlers workers deploy)

Tests, fuzzers and generated code are left out. Functions are found by the house's form: their braces
stand alone in the first column.
"""
import os
import re
import sys

SKIP = re.compile(r"(^|/)(test|fuzz)_|(^|/)build/")
BRANCH = re.compile(r"\b(?:if|for|while|case)\b|&&|\|\||\?")
PROTOTYPE = re.compile(r"^(?!typedef|#|static inline|return|if|while|for|switch|else|define)"
                       r"[A-Za-z_][\w\s\*]*?\**\s*\**\w+\s*\(")


def quantile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))] if values else 0


def find(dirs, ext):
    return sorted(path for d in dirs for root, _, names in os.walk(d) for name in names
                  if (path := os.path.join(root, name)).endswith(ext) and not SKIP.search(path))


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def functions(text):
    """(name, first line, length, branches) of each function."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if line != "{":
            continue
        start = i - 1
        while start > 0 and lines[start - 1].strip() and not lines[start - 1].startswith(("}", "#", "/", " *")) \
                and not lines[start - 1].rstrip().endswith((";", "*/")):
            start -= 1
        head = " ".join(lines[start:i])
        name = re.search(r"(\w+)\s*\(", head)
        if not name or re.match(r"(struct|enum|union)\b[^(]*$", head):
            continue
        end = next((k for k in range(i, len(lines)) if lines[k] == "}"), len(lines) - 1)
        body = re.sub(r'"(?:[^"\\]|\\.)*"|/\*.*?\*/', "", "\n".join(lines[i:end]), flags=re.S)
        yield name.group(1), start + 1, end - start + 1, 1 + len(BRANCH.findall(body))


def prototypes(text):
    """(line, is commented) of each prototype of a header; one right below a commented one shares its comment."""
    lines = text.split("\n")
    i, last_end, last_good = 0, -9, False
    while i < len(lines):
        if PROTOTYPE.match(lines[i]):
            j = i
            while j < len(lines) and ";" not in lines[j] and "{" not in lines[j] and j - i < 12:
                j += 1
            if j < len(lines) and ";" in lines[j] and "{" not in "".join(lines[i:j + 1]):
                k = i - 1
                if k >= 0 and re.match(r"^[A-Za-z_][\w\s\*]*$", lines[k]):
                    k -= 1
                good = k >= 0 and lines[k].rstrip().endswith("*/")
                good = good or (last_good and last_end == i - 1)
                last_end, last_good = j, good
                yield i + 1, good
            i = j
        i += 1


def comment_share(texts):
    comment = total = 0
    for text in texts:
        text = re.sub(r"^\s*/\*.*?\*/", "", text, count=1, flags=re.S)
        total += sum(1 for line in text.splitlines() if line.strip())
        comment += sum(m.count("\n") + 1 for m in re.findall(r"/\*.*?\*/", text, re.S))
    return comment / max(1, total)


def main(dirs):
    sources = {p: read(p) for p in find(dirs, ".c")}
    headers = {p: read(p) for p in find(dirs, ".h")}
    tests = [p for d in dirs for root, _, names in os.walk(d) for n in names
             if (p := os.path.join(root, n)).endswith(".c") and re.search(r"(^|/)test_", p)]
    found = [f for text in sources.values() for f in functions(text)]
    lengths, branches = [f[2] for f in found], [f[3] for f in found]
    lines = [t.count("\n") for t in sources.values()]
    columns = [len(line) for t in list(sources.values()) + list(headers.values()) for line in t.splitlines()]
    kloc = sum(lines) / 1000 or 1
    raw = sum(len(re.findall(r"\b(?:malloc|calloc|realloc|strdup|asprintf|free)\s*\(", t)) for t in sources.values())
    gotos = sum(len(re.findall(r"\bgoto\s+\w+", t)) for t in sources.values())
    good = [g for t in headers.values() for _, g in prototypes(t)]
    tested = sum(read(p).count("\n") for p in tests)
    print(f"{len(sources)} files, {sum(lines)} lines, {len(found)} functions; tests {tested} lines "
          f"({tested / max(1, sum(lines)):.2f} of the source)")
    print(f"  function lines p50/p90/p99/max {quantile(lengths, .5)}/{quantile(lengths, .9)}/"
          f"{quantile(lengths, .99)}/{max(lengths or [0])}, branches p90 {quantile(branches, .9)}")
    print(f"  file lines p90/max {quantile(lines, .9)}/{max(lines or [0])}, lines over 100 columns "
          f"{sum(c > 100 for c in columns)}")
    print(f"  per 1000 lines: goto {gotos / kloc:.2f}, raw allocations and frees {raw / kloc:.2f}")
    print(f"  headers: comment share {comment_share(headers.values()):.2f}, prototypes commented "
          f"{sum(good)}/{len(good)} ({sum(good) / max(1, len(good)):.0%})")


if __name__ == "__main__":
    main(sys.argv[1:] or [d for d in ("lib", "fcgi", "handlers", "workers", "deploy") if os.path.isdir(d)])
