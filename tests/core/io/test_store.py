"""The record of a run: what is written stays, and what does not belong is refused."""

import os
import sqlite3
from dataclasses import replace

import pytest

from inspection_core.errors import UsageError
from inspection_core.io.store import RUN_DATABASE, Row, RunStore

DONE = Row("b/2.png", "12-34", "done", 1.5, 0.1, "NG", 2, 0.03, None, {"findings": [{"id": 1}], "plain": "x.webp"})
FAILED = Row("a.png", "0-1", "failed", error="a.png is empty. Copy it anew.")


def test_rows_come_back_as_they_were_ordered_by_path(tmp_path):
    with RunStore(tmp_path / "deep" / "run") as store:
        store.put(DONE)
        store.put(FAILED)
    with RunStore(tmp_path / "deep" / "run") as store:
        assert list(store.rows()) == [FAILED, DONE]


def test_a_row_is_on_disk_as_soon_as_it_is_put(tmp_path):
    with RunStore(tmp_path) as store:
        store.put(DONE)
        with sqlite3.connect(tmp_path / RUN_DATABASE) as other:  # another process, as it were
            assert other.execute("select path, verdict from results").fetchall() == [("b/2.png", "NG")]
        other.close()


def test_a_second_row_of_a_path_replaces_the_first(tmp_path):
    with RunStore(tmp_path) as store:
        store.put(Row("a.png", "0-1", "done", score=3.0, verdict="OK"))
        store.put(FAILED)
        assert list(store.rows()) == [FAILED]


def test_what_is_known_of_earlier_inputs(tmp_path):
    with RunStore(tmp_path) as store:
        store.put(replace(DONE, content="abc"), FAILED)
        assert store.known() == {"b/2.png": ("12-34", "abc", True), "a.png": ("0-1", "", False)}


def test_forget_removes_what_is_gone(tmp_path):
    with RunStore(tmp_path) as store:
        store.put(DONE)
        store.put(FAILED)
        assert store.forget({"a.png"}) == 1
        assert list(store.rows()) == [FAILED]
        assert store.forget({"a.png", "new.png"}) == 0


def test_a_run_is_continued_by_its_own_kind_only(tmp_path):
    with RunStore(tmp_path) as store:
        store.claim({"model": "cells 1", "folder": "/parts"})
        store.claim({"model": "cells 1", "folder": "/parts"})
        with pytest.raises(UsageError) as error:
            store.claim({"model": "cells 2", "folder": "/parts"})
    assert str(error.value) == (
        f"{tmp_path} holds a run with another model: cells 1. Asked for: cells 2. Give a new folder for --out."
    )


HOSTILE = [
    'it\'s "quoted".png',
    "<img src=x onerror=alert(1)>.png",
    "two\nlines.png",
    "Größe ⚙ 部品.png",
    "'; drop table--",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_comes_back(tmp_path, name):
    with RunStore(tmp_path) as store:
        store.put(Row(name, "1", "failed", error=name))
        (row,) = store.rows()
        assert (row.path, row.error) == (name, name)


@pytest.mark.parametrize("folder", ["50% run?a=b#c", "sp ace & ü"])
def test_a_folder_with_the_letters_of_a_url(tmp_path, folder):
    with RunStore(tmp_path / folder) as store:
        store.put(DONE)
    assert [p.name for p in tmp_path.iterdir()] == [folder]
    assert (tmp_path / folder / RUN_DATABASE).is_file()


def test_something_else_under_the_name_of_the_database(tmp_path):
    (tmp_path / RUN_DATABASE).write_text("my shopping list, which is longer than a header " * 9, encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"is no database of a run\. Give a new folder for --out, or remove that file\."
    ):
        RunStore(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_text("", encoding="utf-8")
    with pytest.raises(FileExistsError):
        RunStore(tmp_path / "run")


def test_details_hold_no_nan(tmp_path):
    with RunStore(tmp_path) as store, pytest.raises(ValueError, match="not JSON compliant"):
        store.put(Row("a.png", "1", "done", details={"peak": float("nan")}))


@pytest.mark.skipif(os.name != "posix", reason="limits of a process exist on POSIX only")
def test_a_full_disk_is_an_os_error_and_what_was_written_stays(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunStore(tmp_path) as store:
        store.put(DONE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / RUN_DATABASE).stat().st_size, hard))
        try:
            with pytest.raises(OSError, match=RUN_DATABASE) as error:
                store.put(Row("c.png", "1", "failed", error="x" * 100_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert error.value.filename == str(tmp_path / RUN_DATABASE)
    with RunStore(tmp_path) as store:
        assert list(store.rows()) == [DONE]


def test_a_database_that_another_process_holds_is_an_os_error(tmp_path, monkeypatch):
    with RunStore(tmp_path) as store:
        other = sqlite3.connect(tmp_path / RUN_DATABASE)
        other.execute("begin exclusive")
        try:
            with store._engine.connect() as connection:
                connection.exec_driver_sql("pragma busy_timeout = 10")
            with pytest.raises(OSError, match="database is locked"):
                store.put(DONE)
        finally:
            other.close()
