#!/usr/bin/python3
"""Hold the route table, the OpenAPI document and the record of a test run against each other.

    check_contract.py            the record of the last run (MB_RECORD, by default build/record)
    check_contract.py --static   only routes and document, as `make lint` does

It fails where a route is not documented, a documented operation has no route, a route was never
answered with success in the run, or a reply broke its schema."""
import collections
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "integration"))
sys.dont_write_bytecode = True

from harness import contract, record  # noqa: E402  (found by the path above)


def static_faults(routes, operations):
    """Differences between the route table and the document."""
    faults = [f"{key}: routed, but not documented"
              for key in sorted(routes.keys() - operations.keys())]
    faults += [f"{key}: documented, but not routed"
               for key in sorted(operations.keys() - routes.keys())]
    for key in sorted(routes.keys() & operations.keys()):
        if routes[key] != operations[key]["operationId"]:
            name = operations[key]["operationId"]
            faults.append(f"{key}: handler {routes[key]}, operationId {name}")
    return faults


def run_faults(the_contract, exchanges):
    """What of a run broke the contract, and the statuses seen per key."""
    faults, seen = [], collections.defaultdict(collections.Counter)
    for exchange in exchanges:
        key = contract.canonical_key(exchange["method"], exchange["path"])
        seen[key][exchange["status"]] += 1
        faults += [f"{fault}  [{exchange['test']}]" for fault in the_contract.faults(exchange)]
    return faults, seen


def main(args):
    the_contract = contract.Contract()
    routes = contract.keys_of_route_table()
    faults = static_faults(routes, the_contract.operations)
    if args == ["--static"]:
        print("\n".join(faults) if faults else f"contract: {len(routes)} routes, all documented")
        return 1 if faults else 0
    if args:
        print(__doc__, file=sys.stderr)
        return 2
    broken, seen = run_faults(the_contract, record.read_all())
    faults += list(dict.fromkeys(broken))
    for key in sorted(routes):
        if not any(200 <= status < 300 for status in seen[key]):
            faults.append(f"{key}: never answered with success in this run ({dict(seen[key])})")
    replies = sum(sum(statuses.values()) for statuses in seen.values())
    hit = sum(1 for key in routes if seen[key])
    pairs = sum(len(seen[key]) for key in routes)
    print("\n".join(faults[:100]))
    print(f"contract: {hit} of {len(routes)} routes hit, {pairs} kinds of replies, "
          f"{replies} replies checked, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
