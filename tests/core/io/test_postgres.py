"""The record of a run in a real PostgreSQL; skipped where there is no server to start."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from inspection_core.errors import UsageError
from inspection_core.io.database import RUN_DATABASE, RUN_FILE
from inspection_core.io.store import Row, RunStore
from inspection_core.runs import compare, summary
from inspection_core.screen import screen
from inspection_core.session import Options

DONE = Row("b/2.png", "12-34", "done", 0.1 + 0.2, 0.1, "NG", 2, 0.03, None, {"findings": [{"id": 1}]}, "abc")
FAILED = Row("a.png", "0-1", "failed", error="a.png is empty. Copy it anew.")


def programs() -> Path | None:
    """Return the folder of PostgreSQL's server programs; Debian keeps them off the path."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: p.parent.name)
    found = shutil.which("initdb")
    places += [Path(found).parent] if found else []
    return next((p for p in reversed(places) if (p / "initdb").exists() and (p / "pg_ctl").exists()), None)


@pytest.fixture(scope="module")
def postgres():
    """URL of a PostgreSQL that lives as long as these tests, reached through a socket in its own folder."""
    pytest.importorskip("psycopg", reason="psycopg is not installed; it comes with the extra [postgres]")
    where = programs()
    if where is None:
        pytest.skip("no PostgreSQL server; install Debian's postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    user = {}
    if os.geteuid() == 0:  # the server refuses to be root
        import pwd

        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = folder / "data"
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
    name = "postgres"
    subprocess.run([where / "initdb", "-D", data, "-U", name, "--auth=trust", "--no-sync", "-E", "UTF8"], **quiet)
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    subprocess.run([where / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start"], **quiet)
    yield f"postgresql://{name}@/{name}?host={folder}"
    subprocess.run([where / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"], **quiet)
    shutil.rmtree(folder)


def test_rows_come_back_and_runs_do_not_mix(postgres, tmp_path):
    with RunStore(tmp_path / "one", postgres) as store, RunStore(tmp_path / "two", postgres) as other:
        store.put(DONE, FAILED)
        other.put(FAILED)
        assert list(store.rows()) == [FAILED, DONE]  # ordered by bytes, as in SQLite
        assert list(other.rows()) == [FAILED]
        assert store.known() == {"b/2.png": ("12-34", "abc", True), "a.png": ("0-1", "", False)}
        store.touch("c.png", "9-9", "b/2.png")
        assert [row.path for row in store.rows()] == ["a.png", "c.png"]
    assert not (tmp_path / "one" / RUN_DATABASE).exists()


def test_the_folder_knows_its_database_but_not_the_password(postgres, tmp_path):
    secret = postgres.replace("postgres@", "postgres:hunter2@")
    with RunStore(tmp_path / "run", secret) as store:
        store.put(DONE)
    assert "hunter2" not in (tmp_path / "run" / RUN_FILE).read_text()
    with RunStore(tmp_path / "run") as store:
        assert list(store.rows()) == [DONE]
    with pytest.raises(UsageError, match="holds a run in another database"):
        RunStore(tmp_path / "run", "postgresql://elsewhere/db")


def test_a_second_machine_is_refused(postgres, tmp_path):
    """Another folder with the same run stands for another machine, whose lock of files does not reach."""
    with RunStore(tmp_path / "run", postgres) as store, store.locked():
        (tmp_path / "other").mkdir()
        shutil.copy(tmp_path / "run" / RUN_FILE, tmp_path / "other" / RUN_FILE)
        with (
            RunStore(tmp_path / "other") as second,
            pytest.raises(UsageError, match="Another process is working on"),
            second.locked(),
        ):
            pass
    with RunStore(tmp_path / "other") as second, second.locked():
        pass


def test_a_screening_says_the_same_in_both(postgres, pictures, bright, tmp_path):
    inside = screen(pictures, bright, tmp_path / "inside", options=Options(pictures="none"))
    options = Options(pictures="none", database=postgres)
    outside = screen(pictures, bright, tmp_path / "outside", options=options)
    assert outside.counts == inside.counts
    assert compare(tmp_path / "inside", tmp_path / "outside").identical
    assert screen(pictures, bright, tmp_path / "outside", options=options).new == 0
    assert summary(tmp_path / "outside").state == "finished"


def test_no_server_there(tmp_path):
    pytest.importorskip("psycopg", reason="psycopg is not installed; it comes with the extra [postgres]")
    with pytest.raises(UsageError, match="The database cannot be reached"):
        RunStore(tmp_path, f"postgresql://nobody@/none?host={tmp_path}")


@pytest.mark.parametrize("url", ["no url", "nosuch://x/y"])
def test_a_url_that_makes_no_sense(url, tmp_path):
    with pytest.raises(UsageError, match="--database"):
        RunStore(tmp_path, url)
