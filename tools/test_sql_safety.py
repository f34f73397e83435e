"""The rules for changes of the schema, each both ways: refused as it is dangerous, and let pass in
the form that is safe."""
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import sql_safety  # noqa: E402  (beside this file)

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lint_sql.py")

UNSAFE = [
    # The list of strong_migrations.
    ("ALTER TABLE users DROP COLUMN name", "may still name the column"),
    ("ALTER TABLE users DROP name", "may still name the column"),
    ("ALTER TABLE ONLY users ALTER COLUMN name TYPE varchar(10)", "another type of column name"),
    ("alter table if exists users alter name set data type text", "another type of column name"),
    ("ALTER TABLE users RENAME COLUMN name TO title", "new name breaks"),
    ("ALTER TABLE users RENAME name TO title", "new name breaks"),
    ("ALTER TABLE users RENAME TO people", "new name breaks"),
    ("DROP TABLE IF EXISTS users; CREATE TABLE users (id uuid PRIMARY KEY)", "release may need it"),
    ("ALTER TABLE users ADD COLUMN n bigserial", "numbers the rows"),
    ("ALTER TABLE users ADD n bigint GENERATED ALWAYS AS IDENTITY", "numbers the rows"),
    ("ALTER TABLE users ADD COLUMN l int GENERATED ALWAYS AS (length(name)) STORED",
     "computed for all rows"),
    ("ALTER TABLE jobs ADD CONSTRAINT k FOREIGN KEY (user_id) REFERENCES users (id)",
     "foreign key checks all rows"),
    ("ALTER TABLE jobs ADD FOREIGN KEY (user_id) REFERENCES users", "foreign key checks all rows"),
    ("ALTER TABLE users ADD CONSTRAINT c CHECK (name <> '')", "checks all rows"),
    ("ALTER TABLE users ADD CHECK (name <> '')", "checks all rows"),
    ("DO $$ BEGIN ALTER TABLE users DROP COLUMN name; END $$", "cannot be judged"),
    ("SELECT rewrite_everything()", "nothing that this check can judge"),
    ("CALL rewrite_everything()", "nothing that this check can judge"),
    ("UPDATE users SET name = 'x'", "in batches"),
    ("DELETE FROM users", "in batches"),
    ("INSERT INTO users SELECT * FROM old", "fills rows"),
    ("MERGE INTO users USING old ON true WHEN MATCHED THEN DELETE", "in batches"),
    ("CREATE INDEX i ON users (name)", "stops writes"),
    ("CREATE UNIQUE INDEX i ON users (name)", "stops writes"),
    ("ALTER TABLE jobs ADD COLUMN city_id uuid REFERENCES cities (id)", "with a foreign key"),
    ("ALTER TABLE users ADD CONSTRAINT u UNIQUE (name)", "builds its index under a lock"),
    ("ALTER TABLE users ADD UNIQUE (name)", "builds its index under a lock"),
    ("ALTER TABLE users ADD PRIMARY KEY (name)", "builds its index under a lock"),
    ("ALTER TABLE users ADD CONSTRAINT e EXCLUDE USING gist (name WITH =)", "exclusion constraint"),
    ("ALTER TABLE users ADD COLUMN extra json", "use jsonb"),
    ("CREATE TABLE things (id uuid PRIMARY KEY, extra json NOT NULL)", "use jsonb"),
    ("ALTER TABLE users ADD COLUMN r uuid DEFAULT gen_random_uuid()", "volatile default"),
    ("ALTER TABLE users ADD r timestamptz NOT NULL DEFAULT clock_timestamp()", "volatile default"),
    ("ALTER TABLE users ADD r bigint DEFAULT nextval('s')", "volatile default"),
    ("ALTER TABLE users ALTER COLUMN name SET NOT NULL", "SET NOT NULL of column name"),
    ("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'", "new name or form of a type"),
    ("ALTER SCHEMA public RENAME TO old", "schema by its name"),
    ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON users (a, b, lower(c, d), e)", "seldom pays"),
    ("DROP INDEX i", "waits for all readers"),
    # What PostgreSQL adds.
    ("CREATE INDEX CONCURRENTLY i ON users (name)", "use IF NOT EXISTS"),
    ("DROP INDEX CONCURRENTLY i", "use IF EXISTS"),
    ("ALTER TABLE users ADD COLUMN age int NOT NULL", "NOT NULL without a default"),
    ("ALTER TABLE users ADD COLUMN age int CHECK (age > 0)", "with a check"),
    ("ALTER TABLE users ADD COLUMN age int UNIQUE", "builds an index"),
    ("ALTER TABLE users ADD a int, DROP COLUMN b", "may still name the column"),
    ("ALTER TABLE users ADD CONSTRAINT c CHECK (a > 0) NOT VALID, VALIDATE CONSTRAINT c",
     "in the same statement"),
    ("ALTER TABLE users ADD CONSTRAINT c CHECK (a > 0) NOT VALID;\n"
     "ALTER TABLE users VALIDATE CONSTRAINT c", "what the same script adds"),
    ("ALTER TABLE users DROP CONSTRAINT users_pkey", "may rely on it"),
    ("ALTER TABLE users DISABLE TRIGGER t", "may rely on"),
    ("ALTER TABLE users SET UNLOGGED", "rewrites"),
    ("ALTER TABLE users SET LOGGED", "rewrites"),
    ("ALTER TABLE users SET TABLESPACE fast", "copies the table"),
    ("ALTER TABLE users SET ACCESS METHOD heap2", "rewrites"),
    ("ALTER TABLE users SET SCHEMA old", "where it was"),
    ("ALTER TABLE users CLUSTER ON i", "CLUSTER"),
    ("ALTER TABLE users ATTACH PARTITION p DEFAULT", "nothing that this check can judge"),
    ("ALTER TABLE users ALTER COLUMN name ADD GENERATED ALWAYS AS IDENTITY",
     "nothing that this check can judge"),
    ("TRUNCATE users", "deletes what"),
    ("LOCK TABLE users", "locks the whole table"),
    ("CLUSTER users", "locks the whole table"),
    ("VACUUM FULL users", "VACUUM FULL"),
    ("REINDEX TABLE users", "no change of schema"),
    ("REFRESH MATERIALIZED VIEW v", "stops readers"),
    ("DROP VIEW v", "release may need it"),
    ("DROP FUNCTION f()", "release may need it"),
    ("DROP TRIGGER t ON users", "release may need it"),
    ("DROP EXTENSION pg_trgm", "release may need it"),
    ("CREATE OR REPLACE VIEW v AS SELECT 1", "may read what it loses"),
    ("ALTER EXTENSION pg_trgm UPDATE", "another version"),
    ("ALTER SEQUENCE s RESTART", "taking numbers"),
    ("REVOKE SELECT ON users FROM app", "may need the right"),
    ("SET lock_timeout = 0", "time limits"),
    ("COPY users FROM '/tmp/x'", "nothing that this check can judge"),
    # Neither case, quotes, schema nor comments hide a statement.
    ('Alter /* ; */ Table "public"."users" -- ;\n  Drop Column "name"', "may still name the column"),
]

SAFE = [
    "CREATE TABLE things (id uuid PRIMARY KEY, extra jsonb, n int CHECK (n > 0), UNIQUE (n))",
    "CREATE TABLE things (id uuid); CREATE INDEX i ON things (id); "
    "ALTER TABLE things ADD CHECK (id IS NOT NULL); INSERT INTO things SELECT gen_random_uuid(); "
    "UPDATE things SET id = id; ALTER TABLE things ALTER COLUMN id SET NOT NULL",
    "CREATE TABLE IF NOT EXISTS public.things (id uuid); CREATE INDEX i ON public.things (id)",
    "ALTER TABLE users ADD COLUMN age int",
    "ALTER TABLE users ADD COLUMN IF NOT EXISTS age int NOT NULL DEFAULT 0",
    "ALTER TABLE users ADD COLUMN seen_at timestamptz NOT NULL DEFAULT now()",
    "ALTER TABLE users ADD COLUMN extra jsonb DEFAULT '{}'::jsonb",
    "ALTER TABLE users ADD COLUMN price numeric(10, 2) DEFAULT 0",
    "ALTER TABLE users ALTER COLUMN r SET DEFAULT gen_random_uuid()",
    "ALTER TABLE users ALTER r DROP DEFAULT, ALTER r DROP NOT NULL, ALTER r SET STATISTICS 500",
    "ALTER TABLE jobs ADD CONSTRAINT k FOREIGN KEY (user_id) REFERENCES users (id) NOT VALID",
    "ALTER TABLE users ADD CONSTRAINT c CHECK (name <> '') NOT VALID",
    "ALTER TABLE users VALIDATE CONSTRAINT c",
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON users (a, b, lower(c, d))",
    "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON users (a, b, c, d)",
    "ALTER TABLE users ADD CONSTRAINT u UNIQUE USING INDEX i",
    "DROP INDEX CONCURRENTLY IF EXISTS i",
    "ALTER TYPE mood ADD VALUE 'blue' AFTER 'sad'",
    "ALTER TABLE users REPLICA IDENTITY FULL",
    "ALTER TABLE users SET (autovacuum_vacuum_scale_factor = 0.01)",
    "INSERT INTO genres (name) VALUES ('house')",
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN DELETE FROM x; "
    "RETURN NULL; END $body$",
    "CREATE TRIGGER t BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION f()",
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    "COMMENT ON TABLE users IS 'do not DROP TABLE; ''quoted'''",
    "CREATE TYPE mood AS ENUM ('sad')",
    "GRANT SELECT ON users TO reader",
]


def script(body):
    """A deploy script around statements."""
    return f"-- Deploy x\n\nBEGIN;\n\n{body};\n\nCOMMIT;\n"


@pytest.mark.parametrize("statement,why", UNSAFE, ids=[s[:60] for s, _ in UNSAFE])
def test_it_is_refused(statement, why):
    found = list(sql_safety.judge(script(statement)))
    assert any(why in sentence for _, sentence in found), found


@pytest.mark.parametrize("statement", SAFE, ids=[s[:60] for s in SAFE])
def test_it_passes(statement):
    assert not list(sql_safety.judge(script(statement)))


@pytest.mark.parametrize("statement", [s for s, _ in UNSAFE if ";" not in s and "/*" not in s
                                       and "VALIDATE" not in s])
def test_a_reason_lets_it_pass(statement):
    assert not list(sql_safety.judge(script(f"-- unsafe: release 1.4 no longer\n-- names it\n{statement}")))


def test_a_reason_is_for_the_next_statement_only():
    body = "-- unsafe: nobody reads it\nALTER TABLE a DROP COLUMN x;\nALTER TABLE b DROP COLUMN x"
    assert [line for line, _ in sql_safety.judge(script(body))] == [7]


def test_an_exception_without_a_reason_is_refused():
    found = list(sql_safety.judge(script("-- unsafe:\nALTER TABLE a DROP COLUMN x")))
    assert found == [(6, "-- unsafe: needs a reason")]


def test_an_exception_that_nothing_needs_is_refused():
    found = list(sql_safety.judge(script("-- unsafe: who knows\nALTER TABLE a ADD x int")))
    assert found == [(6, "needs no exception: leave out -- unsafe")]


def test_the_line_is_that_of_the_statement():
    found = list(sql_safety.judge(script("CREATE TABLE a (id int);\n\n-- why\nDROP TABLE b")))
    assert [line for line, _ in found] == [8]


@pytest.fixture
def folder(tmp_path):
    """A folder like sql/: one released change, one that came later."""
    for kind, end in (("deploy", "COMMIT"), ("revert", "COMMIT"), ("verify", "ROLLBACK")):
        (tmp_path / kind).mkdir()
        for name in ("old", "new"):
            (tmp_path / kind / f"{name}.sql").write_text(f"BEGIN;\nCREATE TABLE {name} (id int);\n{end};\n")
    (tmp_path / "queries").mkdir()
    (tmp_path / "sqitch.plan").write_text(
        "%syntax-version=1.0.0\n%project=x\n\nold 2026-01-01T00:00:00Z A <a@b.c> # Old\n"
        "@v1 2026-01-01T00:00:00Z A <a@b.c> # First\nnew 2026-01-02T00:00:00Z A <a@b.c> # New\n")
    return tmp_path


def faults(folder):
    """What the linter says of a folder."""
    done = subprocess.run([sys.executable, TOOL, str(folder)], capture_output=True, text=True,
                          check=False)
    assert (done.returncode == 0) == (done.stderr == ""), done
    return done.stderr


def test_a_good_folder_passes(folder):
    assert faults(folder) == ""


def test_a_change_after_the_first_tag_must_leave_a_release_running(folder):
    (folder / "deploy/new.sql").write_text("BEGIN;\nDROP TABLE old;\nCOMMIT;\n")
    assert "new.sql:2: the running release may need it" in faults(folder)


def test_a_change_before_the_first_tag_may_do_anything(folder):
    (folder / "deploy/old.sql").write_text("BEGIN;\nDROP TABLE older;\nCOMMIT;\n")
    assert faults(folder) == ""


def test_an_index_is_built_outside_a_transaction(folder):
    (folder / "deploy/new.sql").write_text(
        "BEGIN;\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON old (id);\nCOMMIT;\n")
    assert "CONCURRENTLY runs in no transaction" in faults(folder)
    (folder / "deploy/new.sql").write_text("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON old (id);\n")
    assert faults(folder) == ""


def test_what_must_be_in_a_transaction_is_not_beside_an_index(folder):
    (folder / "deploy/new.sql").write_text(
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON old (id);\nALTER TABLE old ADD x int;\n")
    assert "new.sql:2: stands beside CONCURRENTLY" in faults(folder)


def test_a_script_without_a_transaction_or_with_words_of_psql_is_refused(folder):
    (folder / "deploy/new.sql").write_text("CREATE TABLE new (id int);\n\\i other.sql\n")
    found = faults(folder)
    assert "does not run from BEGIN to COMMIT" in found and "is a command of psql" in found
