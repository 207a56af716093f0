"""What befalls inputs of a screening, and the run itself: all is accounted for, and the same call goes on with it."""

import errno
import json
import os
import shutil
import threading

import numpy as np
import PIL.Image
import pytest

from inspection_core import inspector as module
from inspection_core import tables
from inspection_core.device import Device
from inspection_core.engine import LoadedModel
from inspection_core.errors import ReadError, UsageError
from inspection_core.infer import predict
from inspection_core.io.raster import read_raster
from inspection_core.io.store import RUNNING, RunStore
from inspection_core.runs import compare
from inspection_core.screen import FATAL, screen
from inspection_core.session import Options

PLAIN = Options(pictures="none")


def statuses(done):
    return {row.path: row.status for row in done.rows}


@pytest.fixture
def opened(monkeypatch):
    """Names of files that are read from here on; put a function under a name to have it called in place of reading."""

    class Opened(list):
        pass

    seen = Opened()
    seen.instead = {}
    read = module.open_input

    def open_input(item, *rest):
        name = item.files[0].name
        seen.append(name)
        return seen.instead[name](item, *rest) if name in seen.instead else read(item, *rest)

    seen.read = read
    monkeypatch.setattr(module, "open_input", open_input)
    return seen


def test_batches_across_images_change_nothing(pictures, model, good_parts, tmp_path):
    """Four images share a batch; each has the score that it has by itself."""
    device = Device("cpu", batch=4)
    batched = LoadedModel(model.card, model.folder, model.predictor, device)
    rows = screen(good_parts, batched, tmp_path / "run", options=PLAIN).rows
    for row in rows:
        alone = predict(read_raster(good_parts / row.path), batched)
        assert (row.score, row.p_value, row.verdict) == (alone.image_score, alone.p_value, alone.verdict)


# Identity ---------------------------------------------------------------------------------------------------------


def test_a_moved_file_is_recognised_and_its_files_move_along(pictures, bright, opened, tmp_path):
    options = Options(("masks", "png"), pictures="none")
    before = {r.path: r for r in screen(pictures, bright, tmp_path / "run", options=options).rows}
    (pictures / "new").mkdir()
    (pictures / "part03.png").rename(pictures / "new" / "other.png")
    opened.clear()
    done = screen(pictures, bright, tmp_path / "run", options=options)
    assert opened == []  # known by its content
    after = {r.path: r for r in done.rows}
    assert set(after) == set(before) - {"part03.png"} | {"new/other.png"}
    assert after["new/other.png"].score == before["part03.png"].score
    assert (tmp_path / "run" / "masks" / "new" / "other.png.png").is_file()
    assert (tmp_path / "run" / "results" / "new" / "other.png" / "findings.json").is_file()
    assert not (tmp_path / "run" / "masks" / "part03.png.png").exists()


def test_a_file_that_was_only_touched_is_not_done_again(pictures, bright, opened, tmp_path):
    first = screen(pictures, bright, tmp_path / "run", options=PLAIN).rows
    os.utime(pictures / "part00.png", ns=(1, 1))
    opened.clear()
    second = screen(pictures, bright, tmp_path / "run", options=PLAIN).rows
    assert opened == []
    assert [r.score for r in second] == [r.score for r in first]
    assert second[0].fingerprint != first[0].fingerprint


def test_a_copy_is_an_input_of_its_own(pictures, bright, tmp_path):
    shutil.copy(pictures / "part00.png", pictures / "copy.png")
    rows = {r.path: r for r in screen(pictures, bright, tmp_path / "run", options=PLAIN).rows}
    assert len(rows) == 7
    assert rows["copy.png"].content == rows["part00.png"].content


def test_a_file_that_changes_while_it_is_read(pictures, bright, opened, tmp_path):
    def changing(item, *rest):
        os.utime(item.files[0], ns=(len(opened), len(opened)))
        return opened.read(item, *rest)

    opened.instead["part02.png"] = changing
    done = screen(pictures, bright, tmp_path / "run", options=PLAIN)
    assert done.failures == (
        (
            "part02.png",
            f"{pictures / 'part02.png'} changes while it is read. Run the same command again when it rests.",
        ),
    )
    opened.instead.clear()
    assert screen(pictures, bright, tmp_path / "run", options=PLAIN).counts["failed"] == 0


# What is wrong with one input -------------------------------------------------------------------------------------


def raises(error):
    def instead(*_):
        raise error

    return instead


WRONG = {
    "out of memory": (MemoryError(), "does not fit in memory"),
    "a lost connection": (OSError(errno.EIO, "Input/output error"), "cannot be read: Input/output error"),
    "nobody foresaw": (ZeroDivisionError("secret"), "an error that nobody foresaw (ZeroDivisionError in"),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_input_stops_nothing(case, pictures, bright, opened, tmp_path):
    error, words = WRONG[case]
    opened.instead["part01.png"] = raises(error)
    done = screen(pictures, bright, tmp_path / "run", options=PLAIN)
    assert sum(done.counts.values()) == 6
    ((path, why),) = done.failures
    assert path == "part01.png"
    assert words in why
    assert "secret" not in why
    opened.instead.clear()
    again = screen(pictures, bright, tmp_path / "run", options=PLAIN)
    assert (again.new, again.counts["failed"]) == (1, 0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders are a habit of POSIX")
def test_a_pipe_is_no_image_and_holds_nothing_up(pictures, bright, tmp_path):
    os.mkfifo(pictures / "pipe.png")  # to open it would wait for a writer for ever
    done = screen(pictures, bright, tmp_path / "run", options=PLAIN)
    assert done.failures == (("pipe.png", f"{pictures / 'pipe.png'} cannot be read: it is not a plain file."),)
    assert sum(done.counts.values()) == 7


@pytest.mark.skipif(os.name != "posix", reason="names of 255 bytes")
def test_a_name_that_leaves_no_room_for_that_of_its_mask(pictures, bright, tmp_path):
    name = "x" * 251 + ".png"
    (pictures / "part01.png").rename(pictures / name)
    done = screen(pictures, bright, tmp_path / "run", options=Options(("masks",), pictures="none"))
    ((path, why),) = done.failures
    assert path == name
    assert why.endswith("its name is too long for the names of its results. Rename it.")
    assert sum(done.counts.values()) == 6


def test_an_input_that_the_network_fails_on_does_not_take_others_with_it(pictures, bright, monkeypatch, tmp_path):
    real = module.forward

    def forward(group, model):
        if any(one.image.source.name == "part04.png" for one in group):
            raise MemoryError
        return real(group, model)

    monkeypatch.setattr(module, "forward", forward)
    done = screen(pictures, bright, tmp_path / "run", options=PLAIN)
    assert [path for path, _ in done.failures] == ["part04.png"]
    assert done.counts["failed"] == 1


def test_errors_that_nobody_foresaw_all_the_time_stop_the_run(pictures, bright, opened, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "UNFORESEEN", 3)
    opened.instead.update({f"part0{i}.png": raises(ZeroDivisionError()) for i in range(6)})
    with pytest.raises(ZeroDivisionError):
        screen(pictures, bright, tmp_path / "run", options=PLAIN)


# What is wrong with the run ----------------------------------------------------------------------------------------


def test_a_folder_that_is_gone_stops_the_run_which_goes_on_when_it_is_back(pictures, bright, opened, tmp_path):
    away = tmp_path / "away"

    def lost(item, *rest):
        if pictures.exists():
            pictures.rename(away)
        return opened.read(item, *rest)

    opened.instead["part02.png"] = lost
    with pytest.raises(ReadError, match=r"is gone, or empty all of a sudden; .* when it is back"):
        screen(pictures, bright, tmp_path / "run", options=PLAIN)
    away.rename(pictures)
    opened.instead.clear()
    done = screen(pictures, bright, tmp_path / "run", options=PLAIN)
    assert set(statuses(done).values()) == {"done"}
    assert len(done.rows) == 6


def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_room(pictures, bright, monkeypatch, tmp_path):
    options = Options(("masks",), pictures="none")
    whole = screen(pictures, bright, tmp_path / "whole", options=options)
    real, left = module.write_mask_png, [3]

    def full(*given):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*given)

    monkeypatch.setattr(module, "write_mask_png", full)
    with pytest.raises(OSError, match="No space left"):
        screen(pictures, bright, tmp_path / "run", options=options)
    with RunStore(tmp_path / "run") as store:
        for row in store.rows():  # what has a row has its files
            assert (tmp_path / "run" / "masks" / f"{row.path}.png").is_file()
    left[0] = 100
    done = screen(pictures, bright, tmp_path / "run", options=options)
    assert done.counts == whole.counts
    assert compare(tmp_path / "whole", tmp_path / "run").identical


def test_a_second_process_is_refused(pictures, bright, tmp_path):
    with RunStore(tmp_path / "run") as store, store.locked():
        failed = []

        def second():
            try:
                screen(pictures, bright, tmp_path / "run", options=PLAIN)
            except UsageError as error:
                failed.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    (words,) = failed
    assert words == (
        f"Another process is working on {tmp_path / 'run'}. Wait until it is done or stop it; for more than one "
        "machine there is --ray."
    )
    assert screen(pictures, bright, tmp_path / "run", options=PLAIN).new == 6


def dies_with(run, paths):
    """Leave a run as a process does that dies with these in work."""
    with RunStore(run) as store:
        with store.locked():
            store.begin(paths)
        (run / RUNNING).touch()


def test_inputs_that_the_process_died_with_come_last_and_alone(pictures, bright, opened, tmp_path):
    run = tmp_path / "run"
    for _ in range(2):
        dies_with(run, ["part01.png", "part02.png"])
    done = screen(pictures, bright, run, options=PLAIN)
    assert opened[-2:] == ["part01.png", "part02.png"]
    assert set(statuses(done).values()) == {"done"}


def test_an_input_that_kills_the_process_every_time_is_given_up(pictures, bright, opened, tmp_path):
    run = tmp_path / "run"
    for _ in range(FATAL):
        dies_with(run, ["part01.png"])
    for _ in range(2):  # nor is it tried by a later call
        done = screen(pictures, bright, run, options=PLAIN)
        assert "part01.png" not in opened
        ((path, why),) = done.failures
        assert path == "part01.png"
        assert "the program died 3 times while it was in work" in why
    picture = np.asarray(PIL.Image.open(pictures / "part01.png")) + 1
    PIL.Image.fromarray(picture.astype(np.uint8)).save(pictures / "part01.png")
    assert screen(pictures, bright, run, options=PLAIN).counts["failed"] == 0


def test_stopping_in_good_order_is_no_death(pictures, bright, tmp_path):
    with RunStore(tmp_path) as store:
        for _ in range(5):
            with store.locked():
                store.begin(["part01.png"])
        assert store.deaths() == {}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions hold back")
def test_a_locked_folder_keeps_what_is_known_below_it(pictures, bright, tmp_path):
    (pictures / "sub").mkdir()
    (pictures / "part05.png").rename(pictures / "sub" / "part05.png")
    screen(pictures, bright, tmp_path / "run", options=PLAIN)
    (pictures / "sub").chmod(0)
    try:
        done = statuses(screen(pictures, bright, tmp_path / "run", options=PLAIN))
    finally:
        (pictures / "sub").chmod(0o700)
    assert done["sub"] == "failed"
    assert done["sub/part05.png"] == "done"


# Outputs -----------------------------------------------------------------------------------------------------------


def test_json_lines_coco_and_masks(pictures, bright, tmp_path):
    (pictures / "bad.png").write_bytes(b"")
    run = tmp_path / "run"
    done = screen(pictures, bright, run, options=Options(("jsonl", "coco", "masks"), pictures="none"))
    assert {p.name for p in done.outputs} == {
        "results.csv",
        "results.parquet",
        "results.jsonl",
        "coco.json",
        "report.html",
    }
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [row.path for row in done.rows]
    assert lines[0]["error"]
    assert lines[1]["findings"][0]["box_index"] == [[8, 8], [16, 16]]
    coco = json.loads((run / "coco.json").read_text())
    assert [i["file_name"] for i in coco["images"]] == [f"part0{i}.png" for i in range(6)]
    assert [a["image_id"] for a in coco["annotations"]] == [1, 4]
    assert [a["bbox"] for a in coco["annotations"]] == [[8, 8, 8, 8]] * 2
    assert coco["categories"] == [{"id": 1, "name": "bright"}]
    mask = np.asarray(PIL.Image.open(run / "masks" / "part03.png.png"))
    assert mask.sum() == 64
    assert len(list((run / "masks").iterdir())) == 6


def test_pictures_of_flagged_images_only(pictures, bright, tmp_path):
    rows = screen(pictures, bright, tmp_path / "run", options=Options(pictures="flagged")).rows
    assert [row.path for row in rows if "picture" in row.details] == ["part00.png", "part03.png"]


def test_a_report_of_very_many_lists_the_highest_and_counts_all(pictures, bright, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "LISTED", 3)
    screen(pictures, bright, tmp_path / "run", options=PLAIN)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "The 3 images with the highest scores" in page
    assert '<span class="number">6</span>' in page
    assert "part03.png" in page
    assert len((tmp_path / "run" / "results.csv").read_text().splitlines()) == 7


def test_formats_that_do_not_exist_or_do_not_fit(pictures, bright, tmp_path):
    with pytest.raises(UsageError, match=r"Formats are csv, parquet, jsonl, coco, masks, .*Got 'bmp'"):
        Options(("bmp",))
    with pytest.raises(UsageError, match="--format dicom-seg does not fit"):
        screen(pictures, bright, tmp_path / "run", options=Options(("dicom-seg",)))
    screen(pictures, bright, tmp_path / "run", options=PLAIN)
    with pytest.raises(UsageError, match="holds a run with another set of formats"):
        screen(pictures, bright, tmp_path / "run", options=Options(("masks",)))
