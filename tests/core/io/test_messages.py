"""No message, log line, report or result tells a patient's name, number or date, however broken the file is.

Every text attribute of the dictionary holds the same canaries; the files are damaged in many ways, and all that the
commands print, log and write as JSON is searched.
"""

import re
import struct
import subprocess
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian
from typer.testing import CliRunner

from inspection_core.cli import app
from inspection_core.io.dicom.profile import _CLASS_UIDS
from inspection_core.io.quiet import quiet

CANARY = re.compile(r"zebrowski|zelda|zid-7734|19370719|9\.7734\.9", re.IGNORECASE)
TEXT = "Zelda Zebrowski ZID-7734 19370719"
BY_VR = {
    "PN": "Zebrowski^Zelda", "LO": TEXT, "SH": "ZID-7734", "LT": TEXT, "ST": TEXT, "UT": TEXT, "UC": TEXT,
    "CS": "ZELDA", "AE": "ZEBROWSKI", "DA": "19370719", "DT": "19370719010203", "UI": "1.2.9.7734.9", "UR": "http://zelda.invalid",
}  # fmt: skip
STRUCTURE = {
    "Modality", "PhotometricInterpretation", "SOPClassUID", "TransferSyntaxUID", "SpecificCharacterSet", "PatientID",
    "ConversionType", "MIMETypeOfEncapsulatedDocument",
}  # fmt: skip


def planted(dicom, **tags):
    """One slice with canaries in every text attribute that the dictionary has, at the top and in a sequence."""
    ds = dicom.slice_dataset(dicom.numbered((8, 9)), (0, 0, 0))
    inner = Dataset()
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if vr in BY_VR and keyword and keyword not in STRUCTURE and 0x0008 <= tag >> 16 < 0x5000:
            ds.add_new(tag, vr, BY_VR[vr])
            if not retired:
                inner.add_new(tag, vr, BY_VR[vr])
    ds.PatientID = "ZID-7734"
    ds.ReferencedImageSequence = Sequence([inner])
    for name, value in tags.items():
        if value is None:
            del ds[name]
        else:
            setattr(ds, name, value)
    return ds


def raw_text(data, tag, value):
    """Overwrite an explicit little endian element's value in bytes."""
    at = data.find(struct.pack("<HH", *tag))
    while at >= 0:
        (length,) = struct.unpack("<H", data[at + 6 : at + 8])
        if data[at + 4 : at + 6].isalpha() and length:
            return data[: at + 8] + value[:length].ljust(length) + data[at + 8 + length :]
        at = data.find(struct.pack("<HH", *tag), at + 1)
    return data


@pytest.fixture(scope="module")
def broken(dicom, tmp_path_factory):
    """A folder of damaged files, each with canaries."""
    folder = tmp_path_factory.mktemp("broken") / "scans"
    with quiet():
        whole = dicom.save(planted(dicom), folder / "whole.dcm").read_bytes()
        variants = {
            "modality": {"Modality": "ZELDA"}, "photometric": {"PhotometricInterpretation": "ZELDA"},
            "no_pixels": {"PixelData": None}, "no_rows": {"Rows": None}, "no_position": {"ImagePositionPatient": None},
            "sr": {"Modality": "SR"}, "ultrasound": {"Modality": "US"}, "bits": {"BitsAllocated": 12},
            "huge": {"Rows": 65535, "Columns": 65535}, "frames": {"NumberOfFrames": 5},
            "pet": {"Modality": "PT", "Units": "ZELDA", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"},
            "class": {"SOPClassUID": "1.2.9.7734.9"}, "lut": {"ModalityLUTSequence": Sequence([Dataset()])},
            "document": {"EncapsulatedDocument": b"Zelda Zebrowski "},
        }  # fmt: skip
        for name, tags in variants.items():
            dicom.save(planted(dicom, **tags), folder / f"{name}.dcm")
        implicit = planted(dicom)
        implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dicom.save(implicit, folder / "implicit.dcm")
    # What no writer would write: letters where numbers stand, unknown types, wrong lengths, wrong character sets.
    texts = [
        (0x28, 0x30),
        (0x20, 0x32),
        (0x20, 0x37),
        (0x28, 8),
        (0x18, 0x50),
        (8, 0x20),
        (0x20, 0xD),
        (8, 5),
        (8, 0x60),
    ]
    for k, tag in enumerate(texts):
        (folder / f"letters{k}.dcm").write_bytes(raw_text(whole, tag, b"Zelda\\Zebrowski^^^^^^^^^"))
    (folder / "syntax.dcm").write_bytes(whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.9.7734.9.1.2.1.1", 1))
    for k, (old, new) in enumerate([(b"PN", b"SQ"), (b"PN", b"ZZ"), (b"LO", b"FD"), (b"UI", b"DS"), (b"DA", b"OB")]):
        (folder / f"type{k}.dcm").write_bytes(whole.replace(old, new))
    for k, size in enumerate((150, 1000, len(whole) // 2, len(whole) - 7)):
        (folder / f"cut{k}.dcm").write_bytes(whole[:size])
    rng = np.random.default_rng(7)
    for k in range(6):
        data = bytearray(whole)
        for at in rng.integers(132, len(data), 60):
            data[at] = rng.integers(0, 256)
        (folder / f"flipped{k}.dcm").write_bytes(bytes(data))
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4))
    image.header["descrip"], image.header["intent_name"] = b"Zelda Zebrowski", b"ZID-7734"
    nib.save(image, folder / "a.nii")
    (folder / "b.nii").write_bytes((folder / "a.nii").read_bytes()[:-9])
    return folder


def test_the_planting_works(broken):
    assert len(CANARY.findall((broken / "whole.dcm").read_bytes().decode("latin-1"))) > 2000
    assert pydicom.dcmread(broken / "whole.dcm").Modality == "CT"
    assert len(list(broken.iterdir())) > 35


def test_nothing_is_told_of_single_files(broken, tmp_path, capfd, caplog):
    """Each file alone, so that each gets its own message, in the tests' own process where warnings are errors."""
    said = []
    for k, path in enumerate(sorted(broken.iterdir())):
        for command in (
            ["convert", path, tmp_path / f"c{k}.nii", *(["--suv"] if path.name == "pet.dcm" else [])],
            ["deidentify", path, tmp_path / f"d{k}", "--blank", "0,0,3,3"],
        ):
            result = CliRunner().invoke(app, [*map(str, command), "--json", str(tmp_path / "out.json")])
            captured = capfd.readouterr()
            text = result.output + captured.out + captured.err + caplog.text + (tmp_path / "out.json").read_text()
            said += [(path.name, command[0], line) for line in text.splitlines() if CANARY.search(line)]
            assert result.exception is None or isinstance(result.exception, SystemExit), (path.name, result.exception)
            caplog.clear()
    assert said == []


@pytest.mark.parametrize("command", ["scan", "convert", "deidentify"])
def test_nothing_is_told_by_the_command_itself(broken, tmp_path, command):
    """All of a folder, as a user runs it: native libraries and loggers write to the same terminal."""
    target = [] if command == "scan" else [str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-W", "always", "-m", "inspection_core", command, str(broken), *target, "--json",
         str(tmp_path / "out.json")],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr + (tmp_path / "out.json").read_text()
    assert "Traceback" not in text
    assert [line for line in text.splitlines() if CANARY.search(line)] == []


def test_nothing_is_left_in_what_is_written(broken, tmp_path):
    """A code string is kept as it is: no profile cleans those, and no name belongs there; so are UIDs of kinds."""
    for name in ("whole.dcm", "implicit.dcm", "pet.dcm", "no_position.dcm", "a.nii"):
        CliRunner().invoke(app, ["deidentify", str(broken / name), str(tmp_path / name)])
        (path,) = (p for p in (tmp_path / name).rglob("*") if p.suffix in (".dcm", ".nii"))
        if path.suffix == ".nii":
            assert not CANARY.search(path.read_bytes().decode("latin-1"))
            continue
        ds = pydicom.dcmread(path)
        found = {e.keyword: e.VR for e in ds.iterall() if e.VR != "SQ" and CANARY.search(str(e.value))}
        assert set(found.values()) <= {"CS", "UI"}, found
        assert {k for k, vr in found.items() if vr == "UI"} <= _CLASS_UIDS
        assert not any(k in found for k in ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
