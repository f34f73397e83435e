"""Which values a stack runs with: the tier's, then those given, then addresses and secrets.

lib/config.def is the table of names and ranges; a name or value that it does not know is refused
here, with its sentence, before anything is touched.
"""

import json
import os
import re
import secrets
import shlex

from .say import Refusal
from .topology import SERVERS_MAX

# Only the make command line sets these: a developer's shell often has them for other ends.
NOT_FROM_ENVIRONMENT = {
    "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "REDIS_URL",
    "S3_ENDPOINT", "S3_BUCKET", "PUBLIC_URL", "INSTANCE_ID", "LOG_LEVEL",
}
# DB_SERVERS: PostgreSQL servers that the shards are spread over; "" is what the phase says.
OWN = {"STACK": "default", "PORT_BASE": "8080", "TIER": "development", "PHASE": "0",
       "DB_SERVERS": ""}


class Variable:
    """A row of config.def: low and high are None for a text."""

    def __init__(self, kind, unit="", low=None, high=None, default=""):
        self.kind, self.unit, self.low, self.high, self.default = kind, unit, low, high, default


def read_table(repo):
    """config.def (and the rows that job.def makes) as {ENVIRONMENT_NAME: Variable}."""
    table = {}
    with open(f"{repo}/lib/config.def", encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    for kind, rest in re.findall(r"^CFG_(\w+)\((.*)\)\s*$", text, flags=re.M):
        cells = [c.strip() for c in re.split(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', rest)]
        if kind == "INT":
            table[cells[0].upper()] = Variable(kind, cells[1].strip('"'), int(cells[2]),
                                               int(cells[3]), cells[4])
        elif kind == "SECRETS":
            table[cells[3].strip('"')] = Variable(kind)
        else:
            table[cells[0].upper()] = Variable(kind, default=cells[2].strip('"'))
    with open(f"{repo}/lib/job.def", encoding="utf-8") as f:
        for name in re.findall(r"^JOB\((\w+)", f.read(), flags=re.M):
            for suffix in ("TIMEOUT_S", "CONCURRENCY", "RETRIES"):
                table.setdefault(f"JOB_{name}_{suffix}", Variable("INT", "", 0, 1000000, ""))
    return table


def lookup(table, name):
    if name in table:
        return table[name]
    for pattern, variable in table.items():
        if "%" in pattern and re.fullmatch(re.sub(r"%0?\d*d", r"\\d{1,3}", pattern), name):
            return variable
    return None


def check(table, name, value):
    """Refuse a value that the programs would refuse too."""
    variable = lookup(table, name)
    if variable is None:
        raise Refusal(f"{name} is not a configuration variable; lib/config.def lists them.")
    if "\n" in value or "\r" in value:
        raise Refusal(f"{name} has a line break in it; give it on one line.")
    if variable.kind == "INT" and value != "":
        number = int(value) if re.fullmatch(r"-?\d{1,18}", value) else None
        if number is None or not variable.low <= number <= variable.high:
            raise Refusal(f'{name} is "{value}": allowed is a whole number from '
                          f"{variable.low} to {variable.high} {variable.unit}".rstrip() + ".")


def read_env_file(path):
    values = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            line = line.strip()
            if line and not line.startswith("#"):
                name, _, value = line.partition("=")
                values[name.strip()] = value.strip()
    return values


def given(words, environ, table):
    """What was given: NAME=value words, the make command line, the environment."""
    found = {}
    for name, value in environ.items():
        if name not in NOT_FROM_ENVIRONMENT and (name in OWN or lookup(table, name)):
            found[name] = value
    _, _, command_line = environ.get("MAKEFLAGS", "").partition("-- ")
    for word in shlex.split(command_line) + list(words):
        name, equals, _ = word.partition("=")
        if equals and (name in OWN or lookup(table, name)):
            found[name] = environ.get(name, "")
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise Refusal(f'"{word}" is not NAME=value.')
        if name not in OWN:
            check(table, name, value)
        found[name] = value
    return found


class Settings:
    """What a stack remembers: name, PORT_BASE, TIER, PHASE, DB_SERVERS, overrides, which pools
    serve, and what its data are laid out for.
    """

    def __init__(self, name):
        self.name = name
        self.port_base, self.tier, self.phase = int(OWN["PORT_BASE"]), OWN["TIER"], 0
        self.db_servers = None
        self.overrides = {}
        self.spares = []  # instances whose spare pool serves
        self.data_shards = None
        self.data_phase = None
        self.data_servers = None

    @staticmethod
    def load(name, path):
        s = Settings(name)
        try:
            with open(path, encoding="utf-8") as f:
                kept = json.load(f)
        except FileNotFoundError:
            return s
        except ValueError:
            raise Refusal(f"{path} is damaged; delete it and give the variables again.") from None
        for key in set(vars(s)) - {"name"}:
            setattr(s, key, kept.get(key, getattr(s, key)))
        return s

    def text(self):
        return json.dumps({k: v for k, v in vars(self).items() if k != "name"}, indent=1) + "\n"

    def apply(self, found, repo, table):
        """Take what was given; an empty value forgets an override."""
        if "PORT_BASE" in found:
            if not re.fullmatch(r"\d{4,5}", found["PORT_BASE"]) \
                    or not 1024 <= int(found["PORT_BASE"]) <= 65436:
                raise Refusal(f'PORT_BASE is "{found["PORT_BASE"]}": allowed is a whole number '
                              "from 1024 to 65436.")
            self.port_base = int(found["PORT_BASE"])
        if "PHASE" in found:
            if not re.fullmatch(r"[0-3]", found["PHASE"]):
                raise Refusal(f'PHASE is "{found["PHASE"]}": allowed is 0, 1, 2 or 3.')
            self.phase = int(found["PHASE"])
        if "DB_SERVERS" in found:
            if not re.fullmatch(rf"[1-{SERVERS_MAX}]?", found["DB_SERVERS"]):
                raise Refusal(f'DB_SERVERS is "{found["DB_SERVERS"]}": allowed is a whole number '
                              f"from 1 to {SERVERS_MAX}, or nothing: then the phase decides.")
            self.db_servers = int(found["DB_SERVERS"]) if found["DB_SERVERS"] else None
        if "TIER" in found:
            self.tier = found["TIER"]
        if not re.fullmatch(r"[a-z]+", self.tier) \
                or not os.path.exists(f"{repo}/config/{self.tier}.env"):
            tiers = sorted(n[:-4] for n in os.listdir(f"{repo}/config") if n.endswith(".env"))
            raise Refusal(f'TIER is "{self.tier}": allowed is one of {", ".join(tiers)}.')
        for name, value in found.items():
            if name in OWN:
                continue
            check(table, name, value)
            if value == "":
                self.overrides.pop(name, None)
            else:
                self.overrides[name] = value

    def merged(self, repo, table, of_phase):
        """Tier values under the phase's under the overrides."""
        values = {**read_env_file(f"{repo}/config/{self.tier}.env"), **of_phase}
        for name, value in values.items():
            check(table, name, value)
        values.update(self.overrides)
        return values

    def guard_data(self, shard_count, servers):
        """Refuse what existing data cannot follow."""
        if self.data_phase is not None and self.data_phase != self.phase:
            raise Refusal(
                f"The data of stack {self.name} is laid out for PHASE={self.data_phase}: use "
                f"another STACK=name for PHASE={self.phase}, or drop the data first "
                f"(make clean-data STACK={self.name}).")
        if self.data_shards is not None and self.data_shards != shard_count:
            raise Refusal(
                f"The data of stack {self.name} lies on SHARD_COUNT={self.data_shards}: shards are "
                f"doubled with `maxboosterctl shards split`, not by the variable; to start empty "
                f"with {shard_count}, drop the data first (make clean-data STACK={self.name}).")
        if self.data_servers not in (None, servers):
            raise Refusal(
                f"The data of stack {self.name} lie on DB_SERVERS={self.data_servers}: a shard goes "
                "to another server by `maxboosterctl shards move`, not by the variable; to start "
                f"empty with {servers}, drop the data first (make clean-data STACK={self.name}).")


def number(values, table, name):
    """A whole number: the value where there is one, else the table's default."""
    return int(values.get(name) or table[name].default)


def text(values, table, name):
    return values.get(name, table[name].default)


def make_secrets(kept):
    """Fill in what is missing; made once, then kept with the data."""
    for name, make in (("postgres_admin", lambda: secrets.token_hex(16)),
                       ("postgres", lambda: secrets.token_hex(16)),
                       ("replication", lambda: secrets.token_hex(16)),
                       ("redis", lambda: secrets.token_hex(24)),
                       ("s3_key", lambda: "MB" + secrets.token_hex(9).upper()),
                       ("s3_secret", lambda: secrets.token_hex(20))):
        kept.setdefault(name, make())
    return kept
