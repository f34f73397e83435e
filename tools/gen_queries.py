#!/usr/bin/python3
"""Compile sql/queries/*.sql into one typed C function per query.

usage: gen_queries.py [--queries DIR] --out DIR     write DIR/queries.h and DIR/queries.c
       gen_queries.py [--queries DIR] --json        print what was read, for tests and linters

Notation (after sqlc's), one block a query; sql/README.md explains it:

    -- set: project_columns id, title, version
    -- name: projects_insert :one
    -- shard: owner
    -- args: id uuid, owner uuid, title text
    -- What it does, for the reader and for the generated header.
    INSERT INTO projects (id, owner_id, title) VALUES ($1, $2, $3)
    RETURNING :project_columns;

Each mistake is told as "file:line: sentence"; then nothing is written and the exit status is 1.
"""
import argparse
import json
import os
import re
import sys

PARAMS_MAX = 24  # PG_PARAMS_MAX of lib/pg.h; the generated code asserts that they agree
# PG_QUERY_INDEX_MAX of lib/pg.h, asserted likewise.
QUERIES_MAX = 511

# SQL type as declared -> C type of the argument, function that formats it, type as the server
# names it
TYPES = {
    "uuid": ("struct id", "pg_param_id", "uuid"),
    "uuid?": ("struct id", "pg_param_id_or_null", "uuid"),
    "text": ("const char *", "", "text"),
    "jsonb": ("const char *", "", "jsonb"),
    "bigint": ("int64_t", "pg_param_i64", "bigint"),
    "int": ("int64_t", "pg_param_i64", "integer"),
    "double": ("double", "pg_param_f64", "double precision"),
    "bool": ("bool", "pg_param_bool", "boolean"),
    "timestamptz": ("int64_t", "pg_param_time", "timestamp with time zone"),
}
KINDS = {"one": "PG_ONE", "many": "PG_MANY", "exec": "PG_EXEC"}
NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
# Names that the generated function uses itself, and C's own words that could pass for a column.
RESERVED = {"sc", "place", "auto", "break", "case", "char", "const", "continue", "default", "do",
            "double", "else", "enum", "extern", "float", "for", "goto", "if", "inline", "int",
            "long", "register", "restrict", "return", "short", "signed", "sizeof", "static",
            "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while", "bool",
            "true", "false"}
# One token of SQL that must not be looked into, or a parameter, or a named fragment.
TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/|::|\$(?P<param>\d+)"
                   r"|:(?P<fragment>[a-z][a-z0-9_]*)|(?P<dollar>\$[a-z_]*\$)", re.S)


class Query:
    def __init__(self, path, line, name, kind):
        self.path, self.line, self.name, self.kind = path, line, name, kind
        self.shard, self.args, self.doc, self.sql = None, [], [], []

    def as_dict(self):
        return {"file": self.path, "line": self.line, "name": self.name, "kind": self.kind,
                "shard": self.shard, "args": [{"name": n, "type": t} for n, t in self.args],
                "sqlTypes": [TYPES[t][2] for _, t in self.args], "doc": " ".join(self.doc),
                "sql": self.text, "readOnly": self.read_only}


class Reader:
    """Reads one file after the other and collects faults instead of stopping at the first."""

    def __init__(self):
        self.queries, self.faults, self.fragments = [], [], {}

    def fault(self, path, line, text):
        self.faults.append((path, line, text))

    def read(self, path):
        self.fragments = {}
        query = None
        in_set = None
        with open(path, encoding="utf-8") as f:
            lines = f.read().splitlines()
        for number, line in enumerate(lines, 1):
            comment = re.match(r"--\s?(.*)", line)
            directive = re.match(r"--\s*(name|shard|args|set)\s*:\s*(.*?)\s*\Z", line)
            if directive:
                word, value = directive.groups()
                if word == "name":
                    self.finish(query)
                    query = self.start(path, number, value)
                elif word == "set":
                    self.finish(query)
                    query = None
                    in_set = self.fragment(path, number, value)
                    continue
                elif query is None or query.sql:
                    self.fault(path, number, f"'{word}' stands outside the head of a query")
                else:
                    self.head(query, number, word, value)
            elif comment and in_set is not None:
                self.fragments[in_set] += " " + comment.group(1).strip()
                continue
            elif comment and query is not None and not query.sql:
                query.doc.append(comment.group(1).strip())
            elif query is not None and (line.strip() or query.sql):
                query.sql.append(line)
            elif line.strip() and not comment:
                self.fault(path, number, "SQL outside a query: '-- name:' is missing")
            in_set = None
        self.finish(query)

    def fragment(self, path, number, value):
        name, _, text = value.partition(" ")
        if not NAME.match(name) or not text.strip():
            self.fault(path, number, "'set' needs a lower_snake name and a text")
            return None
        if name in self.fragments:
            self.fault(path, number, f"'{name}' is set twice")
        self.fragments[name] = text.strip()
        return name

    def start(self, path, number, value):
        match = re.match(r"(\S+)\s+:(\S+)\Z", value)
        if not match:
            self.fault(path, number, "'name' must read '-- name: resource_verb :one|:many|:exec'")
            return None
        name, kind = match.groups()
        if not NAME.match(name) or len(name) > 62:
            self.fault(path, number, f"'{name}' is not a lower_snake name of up to 62 characters")
        if kind not in KINDS:
            self.fault(path, number, f"kind ':{kind}' is not :one, :many or :exec")
        for other in self.queries:
            if other.name == name:
                self.fault(path, number, f"'{name}' is there already ({other.path}:{other.line})")
        query = Query(path, number, name, kind)
        self.queries.append(query)
        return query

    def head(self, query, number, word, value):
        if word == "shard":
            if query.shard is not None:
                self.fault(query.path, number, "the shard is named twice")
            query.shard = value
            return
        for part in value.rstrip(",").split(","):
            match = re.match(r"\s*(\S+)\s+(\S+)\s*\Z", part)
            if not match:
                self.fault(query.path, number, f"argument '{part.strip()}' must read 'name type'")
                continue
            name, sql_type = match.groups()
            if not NAME.match(name) or name in RESERVED:
                self.fault(query.path, number, f"'{name}' cannot be the name of an argument")
            if name in [n for n, _ in query.args]:
                self.fault(query.path, number, f"argument '{name}' is there twice")
            if sql_type not in TYPES:
                self.fault(query.path, number, f"argument '{name}' has the unknown type "
                           f"'{sql_type}' (known: {', '.join(TYPES)})")
            query.args.append((name, sql_type))

    def finish(self, query):
        if query is None:
            return
        used = set()

        def token(match):
            if match.group("param"):
                used.add(int(match.group("param")))
            elif match.group("dollar"):
                self.fault(query.path, query.line, f"'{query.name}' has a dollar-quoted text; "
                           "write it with single quotes")
            elif match.group("fragment"):
                name = match.group("fragment")
                if name not in self.fragments:
                    self.fault(query.path, query.line,
                               f"'{query.name}' uses ':{name}', which is not set in this file")
                    return match.group()
                return self.fragments[name]
            elif match.group().startswith(("--", "/*")):
                return ""
            return match.group()

        text = TOKEN.sub(token, "\n".join(query.sql)).strip()
        self.check(query, text, used)
        query.text = re.sub(r"[ \t]*\n[ \t]*", "\n", text.rstrip(";").strip())
        # What changes or locks nothing may be run twice.
        query.read_only = bool(re.match(r"(?i)(select|with)\b", query.text)) and not re.search(
            r"(?i)\b(insert|update|delete|merge|nextval)\b|\bfor\s+(key\s+)?share\b|_lock\b",
            re.sub(r"'(?:[^']|'')*'", "''", query.text))

    def check(self, query, text, used):
        def fault(sentence):
            self.fault(query.path, query.line, f"'{query.name}' {sentence}")

        outside = re.sub(r"'(?:[^']|'')*'", "''", text)
        if not text:
            fault("has no SQL")
        elif not text.endswith(";"):
            fault("does not end with ';'")
        elif ";" in outside[:-1]:
            fault("holds more than one statement")
        if not query.doc or not query.doc[0]:
            fault("has no comment that says what it does")
        if len(query.args) > PARAMS_MAX:
            fault(f"has more than {PARAMS_MAX} arguments")
        for n, (name, _) in enumerate(query.args, 1):
            if n not in used:
                fault(f"does not use argument ${n} ({name})")
        for n in sorted(used):
            if n < 1 or n > len(query.args):
                fault(f"uses ${n}, which is not among its arguments")
        if query.shard is None:
            fault("does not name its shard: '-- shard: <argument>' or '-- shard: place'")
        elif query.shard != "place" and (query.shard, "uuid") not in query.args:
            fault(f"names the shard of '{query.shard}', which is not an argument of type uuid")
        if re.search(r"(?i)\Aselect\s+\*|\breturning\s+\*", outside):
            fault("names no columns; the order of '*' is the table's, not ours")
        if query.kind == "exec" and re.search(r"(?i)\breturning\b", outside):
            fault("is :exec but returns rows")
        gives_rows = re.search(r"(?i)\A(select|with|values)|\breturning\b", outside)
        if query.kind in ("one", "many") and not gives_rows:
            fault(f"is :{query.kind} but returns no rows")


def read_all(folder):
    """All queries of the folder, sorted by name, and the list of faults."""
    reader = Reader()
    for name in sorted(os.listdir(folder)):
        if name.endswith(".sql"):
            reader.read(os.path.join(folder, name))
    if len(reader.queries) > QUERIES_MAX:
        reader.fault(folder, 0, f"more than {QUERIES_MAX} queries")
    return sorted(reader.queries, key=lambda q: q.name), reader.faults


def prototype(query):
    args = ["struct scope *sc"] + (["struct place place"] if query.shard == "place" else [])
    for name, sql_type in query.args:
        c_type = TYPES[sql_type][0]
        args.append(c_type + ("" if c_type.endswith("*") else " ") + name)
    return f"struct pg_query q_{query.name}({', '.join(args)})"


def c_string(text, indent):
    lines = []
    for line in text.splitlines(keepends=True):
        quoted = line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        lines.append(f'{indent}"{quoted}"')
    return "\n".join(lines)


def header(queries):
    out = ["/* Generated from sql/queries by tools/gen_queries.py. */", "#ifndef GEN_QUERIES_H",
           "#define GEN_QUERIES_H", "", '#include "lib/pg.h"', "", "/* Number of queries. */",
           f"enum {{ QUERIES_COUNT = {len(queries)} }};", ""]
    for q in queries:
        nullable = ["nil is NULL: " + n for n, t in q.args if t == "uuid?"]
        note = (" (" + "; ".join(nullable) + ")") if nullable else ""
        doc = " ".join(q.doc).replace("*/", "* /") + note
        out += [f"/* {doc} (:{q.kind}, {os.path.basename(q.path)}) */", prototype(q) + ";", ""]
    return "\n".join(out + ["#endif", ""])


def source(queries):
    out = ["/* Generated from sql/queries by tools/gen_queries.py. */", '#include "queries.h"', "",
           '#include "lib/pg_param.h"', "",
           f'_Static_assert(PG_PARAMS_MAX >= {PARAMS_MAX}, "arguments do not fit");',
           "_Static_assert((int)QUERIES_COUNT <= (int)PG_QUERY_INDEX_MAX, "
           '"more queries than a bitmap holds");',
           ""]
    for index, q in enumerate(queries, 1):
        params = []
        for name, sql_type in q.args:
            function = TYPES[sql_type][1]
            params.append(f"{function}(sc, {name})" if function else name)
        place = "place" if q.shard == "place" else f"pg_param_place({q.shard})"
        out += [prototype(q), "{"]
        if not any(TYPES[t][1] for _, t in q.args):
            out.append("    (void)sc;")
        out += ["    return (struct pg_query){", f'        .name = "{q.name}",',
                "        .sql =", c_string(q.text, "            ") + ",",
                f"        .index = {index},", f"        .kind = {KINDS[q.kind]},",
                f"        .read_only = {'true' if q.read_only else 'false'},",
                f"        .place = {place},", f"        .n_params = {len(params)},"]
        if params:
            out += ["        .params = {", *[f"            {p}," for p in params], "        },"]
        out += ["    };", "}", ""]
    return "\n".join(out)


def write(path, text):
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(temporary, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--queries", default=os.path.join(here, "../sql/queries"))
    parser.add_argument("--out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    queries, faults = read_all(os.path.normpath(options.queries))
    for path, line, text in sorted(faults):
        print(f"{path}:{line}: {text}", file=sys.stderr)
    if faults:
        return 1
    if options.json:
        json.dump([q.as_dict() for q in queries], sys.stdout, indent=1)
        print()
    if options.out:
        os.makedirs(options.out, exist_ok=True)
        write(os.path.join(options.out, "queries.h"), header(queries))
        write(os.path.join(options.out, "queries.c"), source(queries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
