"""A consumer of the event bus, as docs/internals/outbox.md describes one: it reads every stream in its
order and passes over events whose id it has seen."""
import json

PARTITIONS = 8


def stream(partition):
    """Key of a partition's stream."""
    return f"events:{{events:{partition}}}"


def entries(client):
    """Every entry as (partition, event), in the order of each stream; duplicates included."""
    found = []
    for partition in range(PARTITIONS):
        for _, fields in client.xrange(stream(partition)):
            event = json.loads(fields[b"event"])
            assert fields[b"id"].decode() == event["id"]
            found.append((partition, event))
    return found


def events(client, subject=None):
    """Every event once, by its first appearance; only a user's, where one is named."""
    seen, found = set(), []
    for _, event in entries(client):
        if event["id"] not in seen and subject in (None, event["subject"]):
            seen.add(event["id"])
            found.append(event)
    return found


def sequences(client):
    """{user: numbers of his events in the order of their first appearance}."""
    found = {}
    for event in events(client):
        found.setdefault(event["subject"], []).append(int(event["sequence"]))
    return found
