"""What cannot be opened in a folder is told with its reason, and does not stand in the way of the rest."""

import json
import zipfile
from pathlib import Path

from typer.testing import CliRunner

from inspection_core.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_what_cannot_be_opened_in_a_folder_is_told_and_the_rest_goes_on(dicom, tmp_path):
    source = dicom.write_series(tmp_path / "in" / "s", dicom.numbered()).parent
    with zipfile.ZipFile(source / "hostile.zip", "w") as archive:
        archive.writestr("good.txt", b"x" * 100)
        archive.writestr("../../evil.dcm", b"x")
    (source / "dead").symlink_to("gone")
    (source / "round").symlink_to("round")
    result = run("scan", source, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out.json").read_text())
    assert len(report["series"]) == 1
    assert {r["path"].rpartition("/")[2]: r["reason"].partition(";")[0] for r in report["refused"]} == {
        "dead": "dead is a link that leads nowhere.",
        "hostile.zip": "hostile.zip has a member whose name reaches outside the archive, which no honest tool writes. "
        "Nothing of it was read",
        "round": "round is a link that leads nowhere.",
    }
    assert result.output.count("refused: ") == 3
    result = run("convert", source, tmp_path / "out")
    assert result.exit_code == 1
    assert "reaches outside the archive" in result.output
    assert len(list((tmp_path / "out").iterdir())) == 1
    result = run("convert", source, tmp_path / "one.nii.gz")
    assert result.exit_code == 0
    assert "left out: hostile.zip has a member" in result.output
    result = run("convert", source, tmp_path / "two.nii.gz", "--channels", "x", "--channel", "x=3")
    assert (result.exit_code, "left out: hostile.zip has a member" in result.output) == (0, True), result.output


def test_what_may_not_be_read_is_told(dicom, tmp_path, monkeypatch):
    """As another user would see it: this one may be root, whom no permission stops."""
    source = dicom.write_series(tmp_path / "in" / "s", dicom.numbered()).parent
    (source / "locked.dcm").write_bytes(b"x")
    opened = Path.open

    def refuse(path, *args, **kwargs):
        if path.name == "locked.dcm":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    result = run("scan", source)
    assert result.exit_code == 0
    assert "locked.dcm may not be read by this user; check who may." in " ".join(result.output.split())
