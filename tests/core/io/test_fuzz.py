"""Damaged files by the thousand: no crash, no hang, no file outside the target, bounded memory, one clear line each.

Each case has a number and is always the same; ``FUZZ_CASES=20000 FUZZ_FIRST=100000`` runs a longer and another list.
The work is done by ``fuzz_child.py`` in a process of its own, whose time and memory are measured.
"""

import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from inspection_core.convert import convert
from inspection_core.errors import InspectionError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.volumes import write_volume
from inspection_core.scan import scan

CASES = int(os.environ.get("FUZZ_CASES", "2000"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
SECONDS = 5.0
MEMORY_BYTES = 2 << 30


def enhanced(dicom, frames=4):
    """Enhanced multi-frame CT with functional groups, one rescale a frame."""
    picture = dicom.numbered((frames, 16, 16))
    ds = dicom.slice_dataset(picture[0], (0, 0, 0), SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", NumberOfFrames=frames)
    ds.PixelData = picture.tobytes()
    groups = []
    for k in range(frames):
        position, orientation, measures, values, group = (Dataset() for _ in range(5))
        position.ImagePositionPatient = [0, 0, 2.5 * k]
        orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        measures.PixelSpacing, measures.SliceThickness = [0.5, 0.8], 2.5
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = k + 1, -1024, "HU"
        group.PlanePositionSequence, group.PlaneOrientationSequence = Sequence([position]), Sequence([orientation])
        group.PixelMeasuresSequence = Sequence([measures])
        group.PixelValueTransformationSequence = Sequence([values])
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return ds


def mosaic(dicom):
    """A Siemens mosaic that tells its number of slices in the private group 0019."""
    ds = dicom.slice_dataset(dicom.numbered((32, 32)), (0, 0, 0), Modality="MR", Manufacturer="SIEMENS")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "US", 4)
    return ds


def seeds(dicom, folder):
    """Healthy files of each kind, as ``{name: bytes}``."""
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

    out = {}
    picture = dicom.numbered((48, 48), np.int16)
    out["plain.dcm"] = dicom.slice_dataset(picture, (0, 0, 0))
    out["colour.dcm"] = dicom.slice_dataset(np.zeros((24, 24, 3), np.uint8), (0, 0, 0), Modality="US")
    for name, syntax in (("rle.dcm", RLELossless), ("j2k.dcm", JPEG2000Lossless), ("jls.dcm", JPEGLSLossless)):
        ds = dicom.slice_dataset(picture.astype(np.uint16), (0, 0, 0))
        ds.compress(syntax)
        out[name] = ds
    film = dicom.slice_dataset(picture, (0, 0, 0), Modality="US", NumberOfFrames=3)
    film.PixelData = picture.tobytes() * 3
    out["film.dcm"] = film
    out["enhanced.dcm"], out["mosaic.dcm"] = enhanced(dicom), mosaic(dicom)
    for name, syntax in (("implicit.dcm", ImplicitVRLittleEndian), ("deflated.dcm", DeflatedExplicitVRLittleEndian)):
        out[name] = dicom.slice_dataset(picture, (0, 0, 0))
        out[name].file_meta.TransferSyntaxUID = syntax
    out = {name: dicom.save(ds, folder / name).read_bytes() for name, ds in out.items()}
    random = np.random.default_rng(0).integers(0, 999, (12, 13, 14), dtype=np.int16)
    for name in ("a.nii", "a.nii.gz"):
        image = nib.Nifti1Image(random, np.diag([1, 2, 3, 1]))
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / name)
        out[name] = (folder / name).read_bytes()
    nib.save(nib.Nifti1Image(np.stack([random] * 3, axis=-1), np.diag([1, 2, 3, 1])), folder / "four.nii.gz")
    out["four.nii.gz"] = (folder / "four.nii.gz").read_bytes()
    volume = Image(random[None], Geometry.from_spacing(random.shape, (3, 2, 1)), ("grey",))
    for name in ("a.nrrd", "a.mha"):
        write_volume(folder / name, volume)
        out[name] = (folder / name).read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("study/plain.dcm", out["plain.dcm"])
    out["a.zip"] = packed.getvalue()
    return out


def run_child(seed_folder, work, cases, first):
    child = Path(__file__).with_name("fuzz_child.py")
    done = subprocess.run(
        [sys.executable, str(child), str(seed_folder), str(work), str(cases), str(first)],
        capture_output=True, text=True, errors="replace", check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    last = (work.parent / "last").read_text() if (work.parent / "last").exists() else "no case"
    assert done.returncode == 0, f"the process ended with {done.returncode} in {last}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_damaged_files(dicom, tmp_path_factory):
    folder, seed_folder = tmp_path_factory.mktemp("fuzz"), tmp_path_factory.mktemp("seeds")
    for name, data in seeds(dicom, tmp_path_factory.mktemp("made")).items():
        (seed_folder / name).write_bytes(data)
    work = folder / "deep" / "work"
    work.mkdir(parents=True)
    result, printed = run_child(seed_folder, work, CASES, FIRST)
    print(CASES, "cases:", {k: v for k, v in result.items() if k not in ("said", "wrong")})
    assert result["wrong"] == []
    assert result["said"] == []
    assert "Sally" not in printed
    assert result["slowest"][0] < SECONDS, result["slowest"]
    assert result["peak"] < MEMORY_BYTES, f"{result['peak'] / 2**30:.1f} GiB"
    assert result["refused"] > CASES // 5
    assert sorted(p.name for p in folder.iterdir()) == ["deep"]
    assert {p.name for p in (folder / "deep").iterdir()} <= {"work", "target", "last"}
    assert list(work.iterdir()) == []
    assert not Path("/tmp/evil.dcm").exists()  # noqa: S108


# Built to hurt ------------------------------------------------------------------------------------------------------


def deflated_bomb(dicom, folder):
    """A deflated DICOM file of 1 MB that claims 1 GB and unpacks to 64 MB."""
    import zlib

    ds = dicom.slice_dataset(dicom.numbered((8, 9)), (0, 0, 0))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = dicom.save(ds, folder / "bomb.dcm")
    start = path.read_bytes()
    meta = 132 + 12 + int(pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(b"\x09\x00\x10\x10UN\0\0\xf0\xff\xff\x3f")
    for _ in range(64):
        body += packer.compress(bytes(1 << 20))
    path.write_bytes(start[:meta] + body + packer.flush())
    return path


def gzip_bomb(dicom, folder):
    """A NIfTI of 200 KB that claims little and unpacks to 64 MB."""
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)), folder / "a.nii")
    path = folder / "bomb.nii.gz"
    path.write_bytes(gzip.compress((folder / "a.nii").read_bytes() + bytes(64 << 20)))
    (folder / "a.nii").unlink()
    return path


def gzip_claim(dicom, folder):
    """A NIfTI of a few MB whose header claims all that could be packed in it."""
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)), folder / "a.nii")
    data = bytearray((folder / "a.nii").read_bytes())
    data[40:48] = np.array([3, 400, 400, 400], "<i2").tobytes()
    path = folder / "claim.nii.gz"
    path.write_bytes(gzip.compress(bytes(data) + bytes(48 << 20), 1) + os.urandom(6 << 20))
    (folder / "a.nii").unlink()
    return path


def zip_bomb(dicom, folder):
    """An archive whose members unpack to 256 MB in all, each within its own limit."""
    path = folder / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(4):
            archive.writestr(f"{k}.dcm", bytes(128) + b"DICM" + bytes(64 << 20))
    return path


def link_in_archive(dicom, folder):
    path = folder / "link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("passwd.dcm")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return path


@pytest.mark.parametrize("make", [deflated_bomb, gzip_bomb, gzip_claim, zip_bomb, link_in_archive])
def test_bombs(dicom, tmp_path, make):
    """Each in a process of its own: refused or read in bounded time and memory, and nothing is unpacked to disk."""
    (tmp_path / "src").mkdir()
    path = make(dicom, tmp_path / "src")
    code = (
        "import resource, sys, time; from pathlib import Path; from inspection_core.scan import scan;"
        "from inspection_core.convert import convert; from inspection_core.deidentify import deidentify;"
        "from inspection_core.errors import InspectionError\n"
        "def c(p): convert(p, p.parent.parent / 'out')\n"
        "def d(p): deidentify(p, p.parent.parent / 'd')\n"
        "for step in (scan, c, d):\n"
        "    try: step(Path(sys.argv[1]))\n"
        "    except InspectionError as error: print(error)\n"
        "print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, kilobytes = map(float, done.stdout.splitlines()[-1].split())
    print(make.__name__, done.stdout)
    assert kilobytes * 1024 < MEMORY_BYTES, f"{kilobytes / 2**20:.1f} GiB"
    assert seconds < 4 * SECONDS
    assert {p.name for p in tmp_path.iterdir()} <= {"src", "out", "d"}
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) < 400 << 20


def test_a_dicomdir_leads_nowhere(dicom, tmp_path):
    """A DICOMDIR stands for its folder, whatever it names and however damaged it is."""
    study = tmp_path / "study"
    dicom.save(dicom.slice_dataset(dicom.numbered((8, 9)), (0, 0, 0)), study / "a.dcm")
    dicom.save(dicom.slice_dataset(dicom.numbered((8, 9)), (0, 0, 0)), tmp_path / "secret" / "b.dcm")
    rng = np.random.default_rng(0)
    for content in (b"", b"\0" * 128 + b"DICM../secret/b.dcm", rng.bytes(5000)):
        (study / "DICOMDIR").write_bytes(content)
        report = scan(study / "DICOMDIR")
        assert len(report.series) == 1
        assert report.series[0]["files"] == 1


def test_an_absolute_member_stops_the_archive(tmp_path):
    for name in ("/etc/evil.dcm", "../evil.dcm", "a/../../evil.dcm", "C:\\evil.dcm", "..\\evil.dcm"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(name, b"x")
        (tmp_path / "a.zip").write_bytes(packed.getvalue())
        with pytest.raises(InspectionError, match="reaches outside"):
            convert(tmp_path / "a.zip", tmp_path / "out")
