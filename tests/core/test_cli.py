"""The command line: exit codes, one clear line for an error, and the JSON of every command."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from inspection_core import __version__, cli
from inspection_core import doctor as doctor_module

COMMON = {"schema_version", "command", "status", "inputs", "outputs", "errors", "warnings"}
OWN = {
    "predict": {"predictions"},
    "screen": {"counts", "new", "seconds"},
    "evaluate": {
        "image_auroc",
        "pixel_auroc",
        "au_pro",
        "false_alarm_rate",
        "recall",
        "threshold",
        "n_good",
        "n_defect",
        "images_per_second",
    },
    "models list": {"models"},
    "models show": {"card"},
    "doctor": {"checks"},
}
COMMANDS = ["fit", "predict", "screen", "evaluate", "models list", "models show", "demo", "doctor"]


def run(*arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; return exit code, standard output and standard error."""
    done = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception  # a traceback for the user
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def result(tmp_path):
    """Path for --json; call it to read what was written, checked for the keys that all commands share."""

    class Result(type(tmp_path)):
        def __call__(self):
            data = json.loads(self.read_text(encoding="utf-8"), parse_constant=pytest.fail)
            assert set(data) >= COMMON
            assert data["schema_version"] == 1
            assert all(set(e) == {"path", "type", "message"} for e in data["errors"])
            return data

    return Result(tmp_path / "result.json")


@pytest.fixture
def images(tmp_path, parts) -> Path:
    """A folder with a good part and one that has a hole."""
    return parts.write(tmp_path / "images", [parts.brushed(90), parts.hole(parts.brushed(91))])


@pytest.mark.parametrize("command", ["", "models", *COMMANDS])
def test_help(command):
    code, shown, _ = run(*command.split(), "--help")
    assert code == 0
    assert "Usage" in shown


def test_version():
    assert run("--version") == (0, f"inspection-suite {__version__}\n", "")


USAGE = {
    "unknown command": ["explode"],
    "unknown option": ["doctor", "--hard"],
    "model left out": ["screen", ".", "--out", "run"],
    "number expected": ["fit", ".", "--out", "m", "--shots", "many"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_bad_usage_exits_with_2(arguments):
    code, _, said = run(*arguments)
    assert code == 2
    assert "Traceback" not in said


ERRORS = {
    "fit: unknown preset": (
        ["fit", ".", "-o", "m", "--preset", "slow"],
        2,
        "A preset is one of fast, accurate. Got 'slow'.",
    ),
    "fit: no images": (["fit", ".", "-o", "m", "--preset", "fast"], 1, "Found no PNG, JPEG, TIFF, BMP or WebP image"),
    "predict: unknown format": (["predict", ".", "-m", "x", "-o", "o", "--format", "gif"], 2, "Got gif."),
    "predict: no images": (["predict", ".", "-m", "x", "-o", "o"], 2, "Found no PNG, JPEG, TIFF, BMP or WebP image"),
    "screen: no folder": (["screen", "absent", "-m", "x", "-o", "o"], 2, "absent is no folder."),
    "screen: no model": (["screen", ".", "-m", "absent", "-o", "o"], 1, "Got 'absent'; make a model with"),
    "evaluate: no model": (["evaluate", "absent", "."], 1, "Got 'absent'; make a model with"),
    "models show: no model": (["models", "show", "absent"], 1, "Got 'absent'; make a model with"),
    "models list: no folder": (["models", "list", "absent"], 2, "absent is no folder. Give a folder that holds models"),
    "models show: no card": (["models", "show", "."], 1, "card.toml"),
}


@pytest.mark.parametrize(("arguments", "expected", "message"), ERRORS.values(), ids=ERRORS)
def test_a_users_error_is_one_line_and_in_the_json(arguments, expected, message, tmp_path, monkeypatch, result):
    monkeypatch.chdir(tmp_path)
    code, _, said = run(*arguments, "--json", result)
    assert code == expected
    assert message in said
    assert said.startswith("inspection ")
    assert said.count("\n") == 1
    data = result()
    assert data["status"] == "failed"
    assert message in data["errors"][0]["message"]
    assert data["command"] in COMMANDS


def test_fit(good_parts, out, result):
    code, shown, _ = run(
        "fit", good_parts, "-o", out, "--preset", "fast", "--shots", 3, "--device", "cpu", "--json", result
    )
    assert code == 0
    assert f"Next: inspection screen FOLDER --model {out}" in shown
    data = result()
    assert data["status"] == "ok"
    assert data["outputs"] == [str(out)]
    assert data["n_good"] == 3
    assert data["model"]["id"] == "out"
    assert set(data) >= {"suspects", "threshold", "seconds"}
    assert run("fit", good_parts, "-o", out)[0] == 2  # never changed in place


def test_predict(images, fitted, out, result):
    code, shown, _ = run("predict", images, "-m", fitted.folder, "-o", out, "--format", "png,coco", "--json", result)
    assert code == 0
    assert "2 of 2 images" in shown
    for name in ("part00", "part01"):
        found = sorted(p.name for p in (out / name).iterdir())
        assert found == ["coco.json", "findings.json", "mask.png", "score.tiff"]
    data = result()
    assert set(data) == COMMON | OWN["predict"]
    assert data["inputs"] == [str(images / "part00.png"), str(images / "part01.png")]
    assert len(data["outputs"]) == 8
    assert all(Path(p).is_file() for p in data["outputs"])
    assert [set(p) for p in data["predictions"]] == [{"source", "image_score", "p_value", "verdict"}] * 2
    assert data["predictions"][1]["verdict"] == "NG"


def test_predict_with_a_bad_file_among_good_ones(images, fitted, out, result):
    (images / "part00.tif").write_bytes(b"no picture")
    absent = images / "absent.png"
    code, shown, said = run("predict", images, absent, "-m", fitted.folder, "-o", out, "--json", result)
    assert code == 1
    assert "2 of 4 images" in shown
    assert said.count("inspection predict: ") == 2
    data = result()
    assert data["status"] == "failed"
    assert {e["path"] for e in data["errors"]} == {str(images / "part00.tif"), str(absent)}
    assert sorted(p.name for p in out.iterdir()) == ["part00.png", "part01"]  # equal stems keep their suffix


def test_screen(images, fitted, out, result):
    (images / "bad.png").write_bytes(b"")
    code, shown, _ = run("screen", images, "-m", fitted.folder, "-o", out, "--json", result)
    assert code == 0  # a bad file never stops the batch
    assert "1 failed of 3 images" in shown
    data = result()
    assert set(data) == COMMON | OWN["screen"]
    assert [Path(p).name for p in data["outputs"]] == ["results.csv", "results.parquet", "report.html"]
    assert [e["path"] for e in data["errors"]] == ["bad.png"]
    assert data["counts"]["failed"] == 1
    assert data["new"] == 3


def test_screen_where_every_file_is_bad(tmp_path, fitted, out, result):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    assert run("screen", tmp_path / "bad", "-m", fitted.folder, "-o", out, "--json", result)[0] == 1
    assert result()["status"] == "failed"


def test_evaluate(tmp_path, fitted, parts, out, result):
    parts.write(tmp_path / "set" / "test" / "good", [parts.brushed(90)])
    parts.write(tmp_path / "set" / "test" / "hole", [parts.hole(parts.brushed(91))])
    code, shown, said = run("evaluate", fitted.folder, tmp_path / "set", "-o", out, "--json", result)
    assert code == 0
    assert "image AUROC" in shown
    assert "1 defective image without a mask" in said
    data = result()
    assert set(data) >= COMMON | OWN["evaluate"]
    assert data["pixel_auroc"] is None
    assert data["outputs"] == [str(out / "evaluation.csv")]
    code, _, said = run("evaluate", fitted.folder, tmp_path)
    assert (code, said.count("\n")) == (2, 1)
    assert "has no folder test" in said


def test_models(fitted, tmp_path, result):
    code, shown, _ = run("models", "list", fitted.folder.parent, "--json", result)
    assert code == 0
    assert "brushed" in shown
    assert [m["id"] for m in result()["models"]] == ["tumour-lgg-mri", "brushed"]  # what comes along, first
    code, shown, _ = run("models", "show", fitted.folder, "--json", result)
    assert code == 0
    assert "calibrated on 12 good images" in shown
    assert set(result()) == COMMON | OWN["models show"]
    assert result()["card"]["id"] == "brushed"


def test_models_list_tells_a_damaged_card_and_goes_on(tmp_path, result):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "card.toml").write_text("not [ toml", encoding="utf-8")
    code, _, said = run("models", "list", tmp_path, "--json", result)
    assert code == 0
    assert [m["id"] for m in result()["models"]] == ["tumour-lgg-mri"]
    assert said.startswith("note: ")
    assert len(result()["warnings"]) == 1


@pytest.mark.parametrize("width", [60, 80])
def test_models_list_cuts_nothing_on_a_narrow_terminal(fitted, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    code, shown, _ = run("models", "list", fitted.folder.parent)
    assert code == 0
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    table = [line for line in shown.splitlines() if not line.startswith("Licence of ")]
    assert max(map(len, table)) <= width
    assert "tumour-lgg-mri" in shown


def test_doctor(result, monkeypatch):
    code, shown, _ = run("doctor", "--json", result)
    assert code == 0
    assert "PyTorch" in shown
    assert set(result()) == COMMON | OWN["doctor"]
    broken = doctor_module.Check("PyTorch", "broken", "not here", "pip install torch")
    monkeypatch.setattr(doctor_module, "examine", lambda: [broken])
    assert run("doctor", "--json", result)[0] == 1
    assert result()["status"] == "failed"


@pytest.mark.parametrize("command", ["predict", "screen"])
def test_a_file_in_place_of_the_output_folder(command, images, fitted, out, result):
    out.write_text("mine", encoding="utf-8")
    code, _, said = run(command, images, "-m", fitted.folder, "-o", out, "--json", result)
    assert code == 1
    assert said.count("\n") == 1
    assert "cannot be written or read" in said
    assert result()["errors"][0]["type"] == "OSError"
    assert out.read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions hold back")
def test_an_output_folder_that_may_not_be_written(images, fitted, out):
    out.mkdir(mode=0o500)
    code, _, said = run("screen", images, "-m", fitted.folder, "-o", out)
    assert (code, said.count("\n")) == (1, 1)


@pytest.mark.parametrize("command", ["predict", "screen"])
def test_a_full_disk(command, images, fitted, out, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, _, said = run(command, images, "-m", fitted.folder, "-o", out)
    assert (code, said.count("\n")) == (1, 1)
    assert "No space left on device" in said
    assert not [p for p in out.rglob("*.tmp*") if p.is_file()]


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_json_on_standard_output_stands_there_alone(tmp_path, name):
    code, shown, said = run("models", "list", tmp_path, "--json", name)
    assert code == 0
    assert json.loads(shown)["command"] == "models list"
    assert "tumour-lgg-mri" in said
    code, shown, said = run("models", "show", "absent", "--json", name)
    assert (code, said.count("\n")) == (1, 1)
    assert json.loads(shown)["status"] == "failed"
    assert not Path("-").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe with a name")
def test_json_goes_into_a_pipe_and_does_not_take_its_place(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    assert run("models", "list", tmp_path, "--json", pipe)[0] == 0
    assert json.loads(reader.communicate(timeout=60)[0])["status"] == "ok"
    assert pipe.is_fifo()


def test_json_that_cannot_be_written(tmp_path):
    code, _, said = run("models", "list", tmp_path, "--json", tmp_path)
    assert code == 1
    assert said.count("\n") == 1
    assert f"--json {tmp_path} cannot be written" in said


def test_an_interruption_exits_with_130_and_the_run_goes_on(images, fitted, out, result, second_is_interrupted):
    arguments = ("screen", images, "-m", fitted.folder, "-o", out, "--json", result)
    code, _, said = run(*arguments)
    assert code == 130
    assert said == "inspection screen: stopped. Run the same command again to go on.\n"
    assert result()["errors"][0]["type"] == "KeyboardInterrupt"
    assert run(*arguments)[0] == 0
    assert result()["new"] == 1


def test_brackets_and_newlines_in_names_are_no_markup(tmp_path, fitted, parts):
    folder = parts.write(tmp_path / "[red]a[/]", [parts.brushed(90)])
    out = tmp_path / "[/b]"
    code, shown, _ = run("predict", folder, "-m", fitted.folder, "-o", out)
    assert code == 0
    assert "[/b]" in shown
    folder = parts.write(tmp_path / "lines", [parts.brushed(90)])
    (folder / "part00.png").rename(folder / "two\nlines.png")
    code, shown, _ = run("predict", folder, "-m", fitted.folder, "-o", out)
    assert (code, shown.count("\n")) == (0, 2)  # the image, and the sum
    assert "two lines.png" in shown
    code, _, said = run("screen", tmp_path / "two\nlines", "-m", "x", "-o", out)
    assert (code, said.count("\n")) == (2, 1)


def test_an_unforeseen_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(doctor_module, "examine", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("doctor")


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "inspection_core", "models", "show", "absent"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("inspection models show: ")
    assert done.stderr.count("\n") == 1


def test_an_error_of_the_system_inside_a_library_is_one_clear_line(tmp_path, capsys):
    """pydicom raises a full disk anew with a traceback for its text."""
    with pytest.raises(typer.Exit), cli.outcome("convert", tmp_path / "a.json"):  # noqa: PT012
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise OSError("With tag (7FE0,0010) got exception\nTraceback: Secret^Sally") from error
    said = capsys.readouterr().err
    assert said == (
        "inspection convert: a file cannot be written or read: No space left on device. Check space and permissions.\n"
    )
    assert "Sally" not in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_to_predict_on_a_picture_waits_for_no_reader_of_scans(fitted, parts, tmp_path):
    """Nor for timm, whose import takes longer than a hundred images: OpenVINO's graph is in the model."""
    parts.write(tmp_path / "in", [parts.brushed(1)])
    code = (
        "import sys; from inspection_core.cli import app\n"
        f"sys.argv = ['inspection', 'predict', {str(tmp_path / 'in')!r}, '--model', {str(fitted.folder)!r}, "
        f"'--out', {str(tmp_path / 'out')!r}]\n"
        "try: app()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(*{m.partition('.')[0] for m in sys.modules}, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {"timm", "torchvision", "pydicom", "nibabel", "pandas", "plotly"} == set()
