"""A site that grew on SQLite goes on where it was on PostgreSQL."""

import sqlite3
import subprocess
import sys
from contextlib import closing

import psycopg
import pytest

from tests.journeys.server import ROOT, running_site
from tests.lora.factories import write_adapter_files

pytestmark = pytest.mark.journey
QUERY = {"text": "which expert adds two numbers?", "k": 3}


def counts(connection, tables: list[str]) -> dict[str, int]:
    return {table: connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] for table in tables}


def test_a_site_moves_to_postgresql_with_every_row(tmp_path, postgres):
    data_dir = tmp_path / "data"
    with running_site(data_dir) as old:
        ada = old.client(token := old.create_token("ada", "--staff"))
        for seed, name in enumerate(("adds", "doubles")):
            folder = write_adapter_files(tmp_path / name, seed=seed)
            ada.upload_ready(f"ada/{name}", folder, samples=[f"Who {name} {number}?" for number in range(3)])
        merged = ada.post(
            "/merges/", json={"method": "ties", "inputs": [{"adapter": "ada/adds"}, {"adapter": "ada/doubles"}]}
        )
        ada.finished(merged.json()["job"])
        found = ada.post("/retrieve/", json=QUERY).json()["results"]
        listed = ada.get("/adapters/").json()
        file = data_dir / "db.sqlite3"
        env = old.env | {"DATABASE_URL": postgres.new_database("moved")}

    def manage(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)

    assert "is not prepared" in manage("copy_database", str(file)).stderr
    assert manage("migrate").returncode == 0
    copied = manage("copy_database", str(file))
    assert copied.returncode == 0, copied.stderr
    with closing(sqlite3.connect(file)) as sqlite, psycopg.connect(env["DATABASE_URL"]) as connection:
        rows = sqlite.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        tables = [name for (name,) in rows if name != "django_migrations"]
        assert counts(connection, tables) == counts(sqlite, tables)
        vectors = "SELECT id, vectors FROM retrieval_prototype ORDER BY id"
        assert connection.execute(vectors).fetchall() == sqlite.execute(vectors).fetchall()
    assert "is not empty" in manage("copy_database", str(file)).stderr

    with running_site(data_dir, DATABASE_URL=env["DATABASE_URL"]) as new:
        ada = new.client(token)
        assert ada.get("/adapters/").json() == listed
        assert ada.post("/retrieve/", json=QUERY).json()["results"] == found
        # Its id is a new one: the sequences stand behind what was copied.
        ada.upload_ready("ada/third", write_adapter_files(tmp_path / "third", seed=3), samples=["Who is third?"])
