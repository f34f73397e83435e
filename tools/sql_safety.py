"""What a schema change may do while a release runs on the schema: the list that strong_migrations
documents (github.com/ankane/strong_migrations), read from SQL, and what PostgreSQL adds to it.

A statement is refused unless it is known to be harmless: what this file cannot judge (DO, a call, a
statement that it does not know) needs a reason beside it as much as what it knows to be unsafe.
"""
import re

# One token each: a comment, a dollar-quoted text, a text, a quoted name, a word, another character.
TOKEN = re.compile(r"""
    (?P<comment>--[^\n]*|/\*.*?\*/) | (?P<text>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|[eE]?'(?:[^']|'')*')
    | (?P<name>"(?:[^"]|"")+") | (?P<word>[A-Za-z_][\w$]*) | (?P<number>\d[\w.]*) | (?P<space>\s+)
    | (?P<other>.)""", re.X | re.S)
INDEX_COLUMNS_MAX = 3
# Functions that PostgreSQL evaluates once for all rows that are there (stable or immutable).
STEADY = {"now", "current_timestamp", "transaction_timestamp", "statement_timestamp", "current_date",
          "lower", "upper", "coalesce", "to_timestamp", "make_interval", "jsonb_build_object",
          "jsonb_build_array"}
SERIAL = {"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"}
COLUMN_ENDS = {"not", "null", "default", "check", "references", "unique", "primary", "generated",
               "constraint", "collate"}


class Statement:
    """Tokens of one statement in lower case, the line of its first one, and the reason that stands
    in the comment before it ("-- unsafe: reason"), if one does."""

    def __init__(self, tokens, line, reason):
        self.tokens, self.line, self.reason = tokens, line, reason

    def starts(self, *words):
        """Does it begin with these words?"""
        return tuple(self.tokens[:len(words)]) == words

    def has(self, *words):
        """Do these words stand in it, one behind the other?"""
        return find(self.tokens, *words) >= 0


def find(tokens, *words):
    """Index of the first of some words that follow each other; -1 where they do not."""
    for i in range(len(tokens) - len(words) + 1):
        if tuple(tokens[i:i + len(words)]) == words:
            return i
    return -1


def split(text):
    """The statements of a script."""
    tokens, start, comment, at = [], None, "", 1
    for match in TOKEN.finditer(text):
        kind, piece = match.lastgroup, match.group()
        kind = "text" if kind == "tag" else kind
        if kind == "comment" and not tokens:
            comment += piece.lstrip("-") + "\n"
        elif piece == ";" and kind == "other":
            if tokens:
                yield Statement(tokens, start, reason_of(comment))
            tokens, comment = [], ""
        elif kind not in ("comment", "space"):
            start = start if tokens else at
            tokens.append("''" if kind == "text" else
                          piece.strip('"') if kind == "name" else piece.lower())
        at += piece.count("\n")
    if tokens:
        yield Statement(tokens, start, reason_of(comment))


def reason_of(comment):
    """Text behind "unsafe:" of the last comment lines; None where there is none."""
    match = re.search(r"^\s*unsafe:(.*)", comment, re.M | re.S)
    return " ".join(match.group(1).split()) if match else None


def without_option(tokens):
    """Tokens of "IF [NOT] EXISTS name …" or "ONLY name …" without that."""
    for words in (("if", "not", "exists"), ("if", "exists"), ("only",)):
        if tuple(tokens[:len(words)]) == words:
            return without_option(tokens[len(words):])
    return tokens


def name_at(tokens):
    """(name without schema, tokens behind it)."""
    tokens = without_option(tokens)
    if len(tokens) > 2 and tokens[1] == ".":
        return tokens[2], tokens[3:]
    return (tokens[0] if tokens else ""), tokens[1:]


def parts(tokens):
    """Pieces between the commas outside parentheses."""
    found, depth = [[]], 0
    for token in tokens:
        depth += (token == "(") - (token == ")")
        if token == "," and depth == 0:
            found.append([])
        else:
            found[-1].append(token)
    return found


def in_parentheses(tokens):
    """Tokens of the first pair of parentheses, and those behind it."""
    depth, start = 0, None
    for i, token in enumerate(tokens):
        if token == "(":
            start = i + 1 if depth == 0 and start is None else start
            depth += 1
        elif token == ")":
            depth -= 1
            if depth == 0:
                return tokens[start:i], tokens[i + 1:]
    return [], []


def volatile_default(tokens):
    """Does DEFAULT call something that differs from row to row?"""
    at = find(tokens, "default")
    if at < 0:
        return False
    value = tokens[at + 1:]
    return any(value[i + 1:i + 2] == ["("] and re.match(r"[a-z_]", token) and token not in STEADY
               for i, token in enumerate(value) if token not in COLUMN_ENDS)


def judge_constraint(tokens):
    """Sentences about ADD [CONSTRAINT name] of a table that is there."""
    if tokens[:1] == ["constraint"]:
        tokens = tokens[2:]
    is_valid = find(tokens, "not", "valid") < 0
    if tokens[:1] == ["foreign"] and is_valid:
        yield ("a foreign key checks all rows and stops writes of both tables: add it NOT VALID, "
               "validate it in a change of its own")
    if tokens[:1] == ["check"] and is_valid:
        yield ("checks all rows under a lock: add it NOT VALID, validate it in a change of its own")
    if tokens[:1] in (["unique"], ["primary"]) and find(tokens, "using", "index") < 0:
        yield ("builds its index under a lock: build the index CONCURRENTLY first, then add the "
               "constraint USING INDEX")
    if tokens[:1] == ["exclude"]:
        yield "an exclusion constraint checks all rows and stops reads and writes"


def judge_column(tokens):
    """Sentences about ADD COLUMN of a table that is there."""
    name, rest = name_at(tokens)
    kind = rest[0] if rest else ""
    if kind in SERIAL or find(rest, "as", "identity") >= 0:
        yield (f"column {name} numbers the rows that are there, which rewrites the table: make a "
               "new table")
    elif find(rest, "stored") >= 0 and find(rest, "generated") >= 0:
        yield (f"column {name} is computed for all rows, which rewrites the table: add a plain "
               "column and fill it")
    elif volatile_default(rest):
        yield (f"a volatile default of column {name} rewrites the table: add the column without it, "
               "set the default, fill the rows in batches")
    elif find(rest, "not", "null") >= 0 and find(rest, "default") < 0:
        yield f"column {name} is NOT NULL without a default: rows that are there break it"
    if kind == "json":
        yield f"column {name} is json, which has no equality (DISTINCT fails): use jsonb"
    if find(rest, "references") >= 0:
        yield (f"column {name} with a foreign key stops writes of both tables: add the key NOT VALID "
               "in a statement of its own")
    if find(rest, "check") >= 0:
        yield (f"column {name} with a check reads all rows under a lock: add the check NOT VALID in "
               "a statement of its own")
    if find(rest, "unique") >= 0 or find(rest, "primary", "key") >= 0:
        yield f"column {name} builds an index under a lock: build it CONCURRENTLY"


CONSTRAINT_WORDS = ("constraint", "check", "foreign", "unique", "primary", "exclude")
ALTER_COLUMN_SAFE = [("set", "default"), ("drop", "default"), ("drop", "not", "null"),
                     ("set", "statistics"), ("set", "storage"), ("set", "compression"), ("set", "("),
                     ("reset", "("), ("drop", "identity"), ("drop", "expression")]
ALTER_TABLE_SAFE = [("validate", "constraint"), ("set", "("), ("reset", "("), ("replica", "identity"),
                    ("owner", "to"), ("enable", "trigger"), ("enable", "replica"),
                    ("enable", "always"), ("set", "without", "cluster")]
ALTER_TABLE_UNSAFE = [
    (("drop", "constraint"), "the running release may rely on it (an ON CONFLICT, a promise)"),
    (("disable",), "the running release may rely on the trigger or rule"),
    (("set", "logged"), "rewrites the table under a lock"),
    (("set", "unlogged"), "rewrites the table under a lock"),
    (("set", "tablespace"), "copies the table under a lock"),
    (("set", "access", "method"), "rewrites the table under a lock"),
    (("set", "schema"), "the running release looks for the table where it was"),
    (("cluster", "on"), "invites CLUSTER, which locks the whole table"),
]


def is_any(tokens, heads):
    """Does it begin with one of these rows of words?"""
    return any(tuple(tokens[:len(h)]) == h for h in heads)


def judge_alter_column(tokens):
    """Sentences about ALTER COLUMN."""
    column, rest = name_at(tokens)
    if rest[:1] == ["type"] or rest[:3] == ["set", "data", "type"]:
        yield (f"another type of column {column} may rewrite the table and breaks prepared "
               "statements: add a column, write both, fill it, read from it, drop the old one")
    elif rest[:3] == ["set", "not", "null"]:
        yield (f"SET NOT NULL of column {column} reads all rows under a lock: add CHECK ({column} IS "
               "NOT NULL) NOT VALID, validate it in a change of its own; then it is safe")
    elif not is_any(rest, ALTER_COLUMN_SAFE):
        yield "is nothing that this check can judge"


def judge_alter_action(tokens):
    """Sentences about one action of ALTER TABLE."""
    word = tokens[0] if tokens else ""
    for head, why in ALTER_TABLE_UNSAFE:
        if tuple(tokens[:len(head)]) == head:
            yield why
            return
    if word == "add" and tokens[1:2] and tokens[1] in CONSTRAINT_WORDS:
        yield from judge_constraint(tokens[1:])
    elif word == "add":
        yield from judge_column(tokens[2:] if tokens[1:2] == ["column"] else tokens[1:])
    elif word == "alter":
        yield from judge_alter_column(tokens[2:] if tokens[1:2] == ["column"] else tokens[1:])
    elif word == "drop":
        yield ("the running release may still name the column: stop using it in a release before, "
               "then drop it")
    elif word == "rename":
        yield ("a new name breaks the running release: add, write both, fill, read from the new one, "
               "drop the old")
    elif not is_any(tokens, ALTER_TABLE_SAFE):
        yield "is nothing that this check can judge"


def judge_alter_table(statement, made):
    """Sentences about ALTER TABLE."""
    table, rest = name_at(statement.tokens[2:])
    if table in made and rest[:1] != ["rename"]:
        return
    actions = parts(rest)
    for action in actions:
        yield from judge_alter_action(action)
    added = {a[2] for a in actions if a[:2] == ["add", "constraint"] and len(a) > 2}
    if any(a[:2] == ["validate", "constraint"] and a[2:3] and a[2] in added for a in actions):
        yield "validates what it adds in the same statement: that reads all rows under its lock"


def judge_index(statement, made):
    """Sentences about CREATE INDEX."""
    at = find(statement.tokens, "on")
    table, rest = name_at(statement.tokens[at + 1:])
    columns, _ = in_parentheses(rest)
    if not statement.has("concurrently") and table not in made:
        yield "stops writes while it builds: use CREATE INDEX CONCURRENTLY, in a change of its own"
    if statement.has("concurrently") and not statement.has("if", "not", "exists"):
        yield "a run that was killed begins it again: use IF NOT EXISTS"
    if statement.tokens[1] != "unique" and len(parts(columns)) > INDEX_COLUMNS_MAX:
        yield (f"an index of more than {INDEX_COLUMNS_MAX} columns seldom pays: begin with those that "
               "narrow down most")


def judge_drop_index(statement, _made):
    """Sentences about DROP INDEX."""
    if not statement.has("concurrently"):
        yield "waits for all readers under a lock: use DROP INDEX CONCURRENTLY"
    elif not statement.has("if", "exists"):
        yield "a run that was killed begins it again: use IF EXISTS"


def judge_create_table(statement, _made):
    """Sentences about CREATE TABLE."""
    columns, _ = in_parentheses(statement.tokens)
    for column in parts(columns):
        if column[1:2] == ["json"]:
            yield f"column {column[0]} is json, which has no equality (DISTINCT fails): use jsonb"


def judge_insert(statement, made):
    """Sentences about INSERT."""
    table, _ = name_at(statement.tokens[2:])
    if table not in made and not statement.has("values"):
        yield "fills rows in the transaction of a change of schema: fill them in batches, outside"


def judge_drop_object(statement, made):
    """Sentences about DROP of something."""
    if not (statement.tokens[1] in ("trigger", "policy") and on_table(statement) in made):
        yield "the running release may need it: stop using it in a release before, then drop it"


def judge_alter_type(statement, _made):
    """Sentences about ALTER TYPE."""
    if not statement.has("add", "value"):
        yield ("a new name or form of a type or its values breaks the running release: add a value, "
               "write it, fill, forget the old one")


def on_table(statement):
    """The table behind ON."""
    at = find(statement.tokens, "on")
    return name_at(statement.tokens[at + 1:])[0] if at >= 0 else ""


def refuse(why):
    """A rule that always says the same."""
    def judge(_statement, _made):
        yield why
    return judge


def fine(_statement, _made):
    """A rule for what is harmless."""
    return ()


def unless_made(why):
    """A rule for what is harmless on a table of this script only."""
    def judge(statement, made):
        table = name_at(statement.tokens[2 if statement.starts("delete") else 1:])[0]
        if table not in made:
            yield why
    return judge


FILLS = "changes rows under the locks of a change of schema: fill them in batches, outside"
WHOLE = "locks the whole table"
# First words of a statement, the longest row that fits, and its judge.
RULES = {
    ("alter", "table"): judge_alter_table,
    ("alter", "type"): judge_alter_type,
    ("alter", "schema"): refuse("the running release looks for the schema by its name"),
    ("alter", "extension"): refuse("another version of an extension may rewrite what it made"),
    ("alter", "sequence"): refuse("the running release may be taking numbers from it"),
    ("alter", "function"): fine,
    ("alter", "default", "privileges"): fine,
    ("create", "table"): judge_create_table,
    ("create", "unlogged", "table"): judge_create_table,
    ("create", "temporary", "table"): fine,
    ("create", "index"): judge_index,
    ("create", "unique", "index"): judge_index,
    ("create", "extension"): fine,
    ("create", "function"): fine,
    ("create", "or", "replace", "function"): fine,
    ("create", "trigger"): fine,
    ("create", "or", "replace", "trigger"): fine,
    ("create", "constraint", "trigger"): fine,
    ("create", "type"): fine,
    ("create", "domain"): fine,
    ("create", "schema"): fine,
    ("create", "sequence"): fine,
    ("create", "view"): fine,
    ("create", "or", "replace", "view"): refuse("the running release may read what it loses"),
    ("create", "statistics"): fine,
    ("create", "publication"): fine,
    ("drop", "index"): judge_drop_index,
    ("drop",): judge_drop_object,
    ("comment", "on"): fine,
    ("grant",): fine,
    ("revoke",): refuse("the running release may need the right"),
    ("insert", "into"): judge_insert,
    ("update",): unless_made(FILLS),
    ("delete", "from"): unless_made(FILLS),
    ("merge",): refuse(FILLS),
    ("truncate",): refuse("deletes what the running release may read, under a lock"),
    ("lock",): refuse(WHOLE),
    ("cluster",): refuse(WHOLE),
    ("vacuum",): refuse("is no change of schema, and VACUUM FULL locks the whole table"),
    ("reindex",): refuse("is no change of schema, and locks the whole table"),
    ("refresh",): refuse("stops readers of the view while it is computed"),
    ("set",): refuse("the tool sets the time limits of a change; a script must not"),
    ("do",): refuse("what a DO block executes cannot be judged"),
    ("begin",): fine,
    ("commit",): fine,
}


def judge_of(statement):
    """The rule of a statement."""
    heads = [h for h in RULES if statement.starts(*h)]
    return RULES[max(heads, key=len)] if heads else refuse("is nothing that this check can judge")


def judge(text):
    """(line, sentence) of everything in a deploy script that a running release would feel."""
    made = set()
    for statement in split(text):
        if statement.starts("create", "table") or statement.starts("create", "unlogged", "table"):
            made.add(name_at(statement.tokens[statement.tokens.index("table") + 1:])[0])
        whys = list(judge_of(statement)(statement, made))
        if statement.reason is not None and not whys:
            yield statement.line, "needs no exception: leave out -- unsafe"
        elif statement.reason == "":
            yield statement.line, "-- unsafe: needs a reason"
        elif statement.reason is None:
            for why in whys:
                yield statement.line, why
    yield from validated_at_once(text)


def validated_at_once(text):
    """A constraint that is added NOT VALID and validated in one transaction gains nothing."""
    added = set()
    for statement in split(text):
        if not statement.starts("alter", "table"):
            continue
        for action in parts(name_at(statement.tokens[2:])[1]):
            if action[:2] == ["add", "constraint"] and find(action, "not", "valid") >= 0:
                added.add(action[2])
            if action[:2] == ["validate", "constraint"] and action[2:3] and action[2] in added \
                    and statement.reason is None:
                yield statement.line, ("validates what the same script adds: that reads all rows "
                                       "under its lock; use a change of its own")
