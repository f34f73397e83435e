#!/usr/bin/python3
"""Join docs/openapi/*.yaml into one OpenAPI document, as JSON and as a C array.

    gen_openapi.py OUT_DIR      writes openapi.json, openapi.c and openapi.h there
    gen_openapi.py --check      only checks

An operation is written once, without what all have in common. This tool adds that: the parameters
of every request, the headers of every reply, and the problem replies named by x-problems, whose
codes come from lib/err.def. It refuses what cannot be right: a reference to nothing, a name given
twice, an operation without a handler's name.
"""
import copy
import json
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
UNSAFE = ("post", "put", "patch", "delete")
ERR_ROW = re.compile(r'^ERR\((\w+), (\d{3}), "([a-z_]+)", "([^"]+)", (\w+)\)', re.M)


class Fault(Exception):
    """What is wrong with the tables."""


def read_errors():
    """Rows of err.def as {status: [(code, title), …]}."""
    rows = ERR_ROW.findall((ROOT / "lib/err.def").read_text())
    if not rows:
        raise Fault("lib/err.def: no rows found")
    by_status = {}
    for _name, status, code, title, _retry in rows:
        by_status.setdefault(int(status), []).append((code, title))
    return by_status


def merge(into, other, where):
    """Add the members of other; a name that both have is a fault, down to single entries."""
    for name, value in other.items():
        if name in into and isinstance(into[name], dict) and isinstance(value,
                dict) and len(where) < 2:
            merge(into[name], value, where + [name])
        elif name in into:
            raise Fault(f"{'.'.join(where + [name])}: given twice")
        else:
            into[name] = value


class UniqueLoader(yaml.SafeLoader):
    """A loader that refuses a key given twice, which YAML itself would let pass."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise Fault(f"{node.start_mark}: {key} given twice")
        return super().construct_mapping(node, deep)


def read_tables():
    """All YAML files in one document, common.yaml first."""
    folder = ROOT / "docs/openapi"
    files = sorted(folder.glob("*.yaml"), key=lambda p: (p.name != "common.yaml", p.name))
    document = {}
    for file in files:
        merge(document, yaml.load(file.read_text(), UniqueLoader), [])
    return document


def problem_reply(status, errors):
    """The component of one status: all its codes."""
    codes = [code for code, _ in errors]
    headers = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    if status in (429, 503):
        headers["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    if status == 405:
        headers["Allow"] = {"$ref": "#/components/headers/Allow"}
    if status == 401:
        headers["WWW-Authenticate"] = {"$ref": "#/components/headers/WWW-Authenticate"}
    return {
        "description": "; ".join(f"`{code}`: {title}" for code, title in errors) + ".",
        "headers": headers,
        "content": {"application/problem+json": {
            "schema": {"allOf": [
                {"$ref": "#/components/schemas/Problem"},
                {"properties": {"status": {"const": status}, "code": {"enum": codes}}},
            ]},
            "example": {"type": f"/problems/{codes[0]}", "title": errors[0][1], "status": status,
                        "detail": errors[0][1] + ".", "instance": "0f8b3c4d5e6f4a1b",
                        "code": codes[0], "requestId": "0f8b3c4d5e6f4a1b"},
        }},
    }


def wanted_problems(operation, method, groups, name):
    """{status: description or None} of the problems that an operation can give."""
    entries = ["every"] + operation.pop("x-problems", [])
    if operation.get("x-limit", "normal") != "none":
        entries.append("limited")
    if method in UNSAFE:
        entries.append("idempotent")
    wanted = {}
    for entry in entries:
        if isinstance(entry, dict):
            wanted.update(entry)
        elif entry in groups:
            for status in groups[entry]:
                wanted.setdefault(status, None)
        else:
            raise Fault(f"{name}: no problem group {entry!r}")
    return wanted


def complete_operation(document, operation, method, groups, name):
    """Add what every operation has."""
    common = ["RequestId", "TraceParent"] + (["IdempotencyKey"] if method in UNSAFE else [])
    operation.setdefault("parameters", [])
    operation["parameters"] += [{"$ref": f"#/components/parameters/{p}"} for p in common]
    wanted = wanted_problems(operation, method, groups, name)
    limited = operation.setdefault("x-limit", "normal") != "none"
    for reply in operation["responses"].values():
        if "$ref" not in reply:
            headers = reply.setdefault("headers", {})
            for header in ["X-Request-Id"] + (["RateLimit", "RateLimit-Policy"] if limited else []):
                headers[header] = {"$ref": f"#/components/headers/{header}"}
    for status, description in sorted(wanted.items()):
        if str(status) in operation["responses"]:
            continue
        if f"Problem{status}" not in document["components"]["responses"]:
            raise Fault(f"{name}: no error of lib/err.def has status {status}")
        reply = {"$ref": f"#/components/responses/Problem{status}"}
        if description:
            reply["description"] = description
        operation["responses"][str(status)] = reply
    operation["responses"] = dict(sorted(operation["responses"].items()))


def allow_null(document, schema):
    """In a request a member that may be missing may be null too; within, likewise."""
    if "$ref" in schema:
        schema = resolve(document, schema["$ref"])
    required = schema.get("required", [])
    for name, member in schema.get("properties", {}).items():
        allow_null(document, member)
        if name not in required and {"type": "null"} not in member.get("anyOf", []):
            schema["properties"][name] = {"anyOf": [member, {"type": "null"}]}


def request_schemas(document):
    """The schemas of all request bodies."""
    for _path, _method, operation in operations(document):
        body = operation.get("requestBody")
        if body:
            body = resolve(document, body["$ref"]) if "$ref" in body else body
            yield body["content"]["application/json"]["schema"]


def operations(document):
    """(path, method, operation) of all."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield path, method, operation


def join():
    """The whole document, checked."""
    document = copy.deepcopy(read_tables())
    groups = document.pop("x-problem-groups")
    responses = document["components"].setdefault("responses", {})
    for status, errors in sorted(read_errors().items()):
        responses[f"Problem{status}"] = problem_reply(status, errors)
    document.setdefault("security", [{"cookie": []}, {"bearer": []}])
    for path, method, operation in operations(document):
        complete_operation(document, operation, method, groups, f"{method.upper()} {path}")
    check(document)
    for schema in request_schemas(document):
        allow_null(document, schema)
    return document


def resolve(document, ref):
    """What a local reference points at."""
    if not ref.startswith("#/"):
        raise Fault(f"{ref}: only local references")
    node = document
    for step in ref[2:].split("/"):
        if not isinstance(node, dict) or step not in node:
            raise Fault(f"{ref}: refers to nothing")
        node = node[step]
    return node


def check_refs(document, node, used):
    """Every reference resolves."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            resolve(document, node["$ref"])
            used.add(node["$ref"])
        for value in node.values():
            check_refs(document, value, used)
    elif isinstance(node, list):
        for value in node:
            check_refs(document, value, used)


def check(document):
    """Refuse what cannot be right."""
    seen = set()
    for path, method, operation in operations(document):
        name = f"{method.upper()} {path}"
        handler = operation.get("operationId", "")
        if not re.fullmatch(r"h_[a-z0-9_]+", handler) or handler in seen:
            raise Fault(f"{name}: operationId {handler!r} is no handler's name, or given twice")
        seen.add(handler)
        declared = {p.get("name") or resolve(document, p["$ref"])["name"]
                    for p in document["paths"][path].get("parameters",
                                                         []) + operation["parameters"]}
        for variable in re.findall(r"{(\w+)}", path):
            if variable not in declared:
                raise Fault(f"{name}: path parameter {variable} is not declared")
        if not any(status.startswith("2") for status in operation["responses"]):
            raise Fault(f"{name}: no success reply")
    used = set()
    check_refs(document, document, used)
    used |= {f"#/components/responses/Problem{s}" for s in read_errors()}
    used |= {f"#/components/securitySchemes/{s}" for s in document["components"]["securitySchemes"]}
    for kind, entries in document["components"].items():
        for entry in entries:
            if f"#/components/{kind}/{entry}" not in used:
                raise Fault(f"components.{kind}.{entry}: used by nothing")


def c_array(data):
    """The bytes as string literals of C, 90 columns wide."""
    lines = []
    line = ""
    for byte in data:
        char = chr(byte)
        if char in '"\\':
            text = "\\" + char
        elif 32 <= byte < 127 and char != "?":
            text = char
        else:
            text = f"\\{byte:03o}"
        if len(line) + len(text) > 90:
            lines.append(f'    "{line}"')
            line = ""
        line += text
    lines.append(f'    "{line}"')
    return "\n".join(lines)


HEADER = """/* Generated by tools/gen_openapi.py from docs/openapi and lib/err.def. */
#ifndef GEN_OPENAPI_H
#define GEN_OPENAPI_H

#include <stddef.h>

/* The OpenAPI document, compact JSON in UTF-8, a NUL behind it. */
extern const char openapi_json[];

/* Its bytes, without the NUL. */
extern const size_t openapi_json_len;

#endif
"""


def main(args):
    if len(args) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        document = join()
    except (Fault, yaml.YAMLError) as fault:
        print(f"openapi: {fault}", file=sys.stderr)
        return 1
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    if args[0] == "--check":
        return 0
    out = pathlib.Path(args[0])
    out.mkdir(parents=True, exist_ok=True)
    (out / "openapi.json").write_text(text)
    (out / "openapi.h").write_text(HEADER)
    data = text.encode()
    (out / "openapi.c").write_text(
        "/* Generated by tools/gen_openapi.py. */\n"
        '#include "openapi.h"\n\nconst char openapi_json[] =\n'
        f"{c_array(data)};\nconst size_t openapi_json_len = {len(data)};\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
