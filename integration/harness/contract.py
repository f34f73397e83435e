"""The contract of the API as the OpenAPI document states it, and what an exchange owes to it."""
import functools
import json
import pathlib
import re
import sys
import urllib.parse

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import gen_openapi  # noqa: E402  (found by the path above)

ID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[78][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
SUCCESS = range(200, 300)


def canonical_key(method, path):
    """The key of the route table: METHOD /path, ids as *."""
    parts = urllib.parse.unquote(path.split("?", 1)[0]).split("/")
    return f"{method} " + "/".join("*" if ID.match(part) else part for part in parts)


def keys_of_route_table():
    """{key: handler} of fcgi/routes.gperf."""
    text = (ROOT / "fcgi/routes.gperf").read_text()
    rows = re.findall(r'^"([A-Z]+ /[^"]*)"\s*,\s*\.h\s*=\s*(\w+)', text, re.M)
    return dict(rows)


class Contract:
    """The joined document, by canonical key."""

    def __init__(self, document=None):
        self.document = document or gen_openapi.join()
        self.operations = {}
        for path, method, operation in gen_openapi.operations(self.document):
            key = f"{method.upper()} " + re.sub(r"{\w+}", "*", path)
            self.operations[key] = operation
        self._resolver = jsonschema.RefResolver("", self.document)
        self._validator = functools.lru_cache(maxsize=None)(self._make_validator)

    def _make_validator(self, schema_text):
        return jsonschema.Draft202012Validator(json.loads(schema_text), resolver=self._resolver)

    def schema_faults(self, schema, value, what):
        """Sentences about what of the value breaks the schema."""
        validator = self._validator(json.dumps(schema))
        faults = []
        for error in sorted(validator.iter_errors(value), key=lambda e: list(map(str, e.path)))[:5]:
            place = "/".join(str(step) for step in error.absolute_path)
            faults.append(f"{what} at /{place}: {error.message[:300]}")
        return faults

    def deref(self, node):
        """The node that a reference names, or the node itself."""
        return gen_openapi.resolve(self.document, node["$ref"]) if "$ref" in node else node

    def faults(self, exchange):
        """What is wrong with a reply, as sentences; empty where it keeps the contract.

        exchange: dict with method, path, requestBody (text or None), status, headers, body."""
        method = "GET" if exchange["method"] == "HEAD" else exchange["method"]
        key = canonical_key(method, exchange["path"])
        operation = self.operations.get(key)
        if operation is None:
            return self._faults_of_no_operation(exchange)
        reply = operation["responses"].get(str(exchange["status"]))
        if reply is None:
            return [f"{key}: status {exchange['status']} is not documented"]
        faults = self._faults_of_reply(self.deref(reply), exchange)
        if exchange["status"] in SUCCESS:
            faults += self._faults_of_accepting(operation, exchange)
        return [f"{key} {exchange['status']}: {fault}" for fault in faults]

    def _faults_of_no_operation(self, exchange):
        """A request that no operation answers: a problem of the right kind."""
        path = canonical_key("", exchange["path"]).lstrip()
        others = [k for k in self.operations if k.split(" ", 1)[1] == path]
        if others and exchange["status"] == 404:
            return [f"{exchange['method']} {exchange['path']}: 404 where 405 is due"]
        name = f"Problem{exchange['status']}"
        reply = self.document["components"]["responses"].get(name)
        if reply is None:
            return [f"{exchange['method']} {exchange['path']}: status {exchange['status']} "
                    "is none of the problems"]
        return [f"{exchange['method']} {exchange['path']} {exchange['status']}: {fault}"
                for fault in self._faults_of_reply(reply, exchange)]

    def _faults_of_reply(self, reply, exchange):
        headers = {name.lower(): value for name, value in exchange["headers"].items()}
        faults = []
        for name, header in reply.get("headers", {}).items():
            header = self.deref(header)
            if name.lower() in headers:
                faults += self.schema_faults(header["schema"], headers[name.lower()],
                                             f"header {name}")
            elif header.get("required"):
                faults.append(f"header {name} is missing")
        body = exchange.get("body") or ""
        if exchange["method"] == "HEAD":
            return faults
        if not reply.get("content"):
            return faults + ([f"a body where none is documented: {body[:80]!r}"] if body else [])
        kind = headers.get("content-type", "").split(";")[0].strip()
        if kind not in reply["content"]:
            return faults + [f"content type {kind!r}, documented: {list(reply['content'])}"]
        if not kind.endswith("json"):
            return faults
        try:
            value = json.loads(body)
        except ValueError as fault:
            return faults + [f"the body is no JSON ({fault}): {body[:80]!r}"]
        faults += self.schema_faults(reply["content"][kind]["schema"], value, "body")
        if kind == "application/problem+json" and isinstance(value, dict):
            faults += self._faults_of_problem(value, headers, exchange)
        return faults

    @staticmethod
    def _faults_of_problem(problem, headers, exchange):
        faults = []
        if problem.get("status") != exchange["status"]:
            faults.append(f"member status is {problem.get('status')}")
        if problem.get("requestId") != headers.get("x-request-id"):
            faults.append("requestId differs from X-Request-Id")
        if problem.get("type") != f"/problems/{problem.get('code')}":
            faults.append(f"type {problem.get('type')!r} does not end in the code")
        if problem.get("code") == "validation_failed" and not problem.get("errors"):
            faults.append("validation_failed without errors")
        return faults

    def _faults_of_accepting(self, operation, exchange):
        """A success means that the request kept the contract too."""
        body = exchange.get("requestBody")
        wanted = operation.get("requestBody")
        if wanted is None or not body:
            if wanted and self.deref(wanted).get("required") and not body:
                return ["accepted without the body that is required"]
            return []
        try:
            value = json.loads(body)
        except ValueError:
            return ["accepted a body that is no JSON"]
        schema = self.deref(wanted)["content"]["application/json"]["schema"]
        return self.schema_faults(schema, value, "accepted request body")
