"""Damaged files by the hundred: no crash, no hang, no file outside the target, bounded memory, one clear line each.

Each case has a number and is always the same; ``FUZZ_CASES=20000`` runs a longer list.
"""

import gzip
import io
import os
import resource
import struct
import time
import zipfile

import nibabel as nib
import numpy as np
import pytest

from inspection_core.convert import convert
from inspection_core.errors import InspectionError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.volumes import write_volume
from inspection_core.scan import scan

CASES = int(os.environ.get("FUZZ_CASES", "2000"))
SECONDS = 5.0
MEMORY_BYTES = 2 << 30


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
    out = {name: dicom.save(ds, folder / name).read_bytes() for name, ds in out.items()}
    random = np.random.default_rng(0).integers(0, 999, (12, 13, 14), dtype=np.int16)
    for name in ("a.nii", "a.nii.gz"):
        image = nib.Nifti1Image(random, np.diag([1, 2, 3, 1]))
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / name)
        out[name] = (folder / name).read_bytes()
    volume = Image(random[None], Geometry.from_spacing(random.shape, (3, 2, 1)), ("grey",))
    for name in ("a.nrrd", "a.mha"):
        write_volume(folder / name, volume)
        out[name] = (folder / name).read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("study/plain.dcm", out["plain.dcm"])
    out["a.zip"] = packed.getvalue()
    return out


def mutate(name, data, rng):
    """Return damaged bytes, and the name of what was done."""
    packed = name.endswith(".gz")
    data = bytearray(gzip.decompress(data) if packed and rng.random() < 0.7 else data)
    packed = packed and data[:2] != b"\x1f\x8b"
    tags = {  # explicit little endian: tag, VR, length 2
        "rows": b"\x28\x00\x10\x00US\x02\x00", "columns": b"\x28\x00\x11\x00US\x02\x00",
        "bits": b"\x28\x00\x00\x01US\x02\x00",
        "stored": b"\x28\x00\x01\x01US\x02\x00", "samples": b"\x28\x00\x02\x00US\x02\x00",
        "sign": b"\x28\x00\x03\x01US\x02\x00",
    }  # fmt: skip
    texts = (
        b"\x28\x00\x30\x00DS",
        b"\x20\x00\x32\x00DS",
        b"\x20\x00\x37\x00DS",
        b"\x28\x00\x08\x00IS",
        b"\x08\x00\x60\x00CS",
    )
    kind = rng.choice(["truncate", "flip", "flip", "header flip", "size", "text", "vr", "insert", "special", "special"])
    if kind == "truncate":
        del data[int(rng.integers(0, len(data))) :]
    elif kind in ("flip", "header flip"):
        limit = len(data) if kind == "flip" else min(len(data), 900)
        for _ in range(int(rng.integers(1, 40))):
            data[int(rng.integers(0, limit))] = int(rng.integers(0, 256))
    elif kind == "insert":
        at = int(rng.integers(0, len(data)))
        data[at:at] = rng.bytes(int(rng.integers(1, 200)))
    elif name.endswith(".dcm") and kind in ("size", "special"):
        tag = tags[str(rng.choice(list(tags)))]
        at = data.find(tag)
        if at >= 0:
            data[at + 8 : at + 10] = struct.pack("<H", int(rng.choice([0, 1, 2, 7, 255, 4096, 32767, 65535])))
    elif name.endswith(".dcm") and kind == "text":
        at = data.find(texts[int(rng.integers(0, len(texts)))])
        if at >= 0:
            (length,) = struct.unpack("<H", data[at + 6 : at + 8])
            value = rng.choice(
                [b"-1\\-1", b"nan\\nan", b"1e999", b"99999999", b"0\\0", b"\xff\xfe\xfd", b"SEG", b"../../x"]
            )
            data[at + 8 : at + 8 + length] = bytes(value)[:length].ljust(length, b" ")
    elif name.endswith(".dcm") and kind == "vr":
        places = [
            i
            for i in range(132, min(len(data) - 2, 1500))
            if bytes(data[i : i + 2]) in (b"US", b"DS", b"IS", b"CS", b"UI", b"OW")
        ]
        if places:
            at = int(rng.choice(places))
            data[at : at + 2] = bytes(rng.choice([b"SQ", b"OB", b"UN", b"FD", b"AT", b"PN", b"ZZ"]))
    elif ".nii" in name and len(data) > 352:
        at, form, values = [
            (40, "<8h", (3, 32767, 32767, 32767, 1, 1, 1, 1)), (40, "<8h", (7, -3, 2, 9, 1, 1, 1, 1)), (42, "<h", (0,)),
            (76, "<4f", (1, -2.0, 0.0, np.nan)), (280, "<4f", (np.nan,) * 4), (280, "<4f", (0,) * 4), (280, "<4f",
            (1e38,) * 4),
            (252, "<hh", (1, 0)), (256, "<3f", (9, 9, 9)), (70, "<hh", (32, 64)), (70, "<hh", (9999, 3)), (108,
            "<f", (-1e30,)),
            (108, "<f", (np.inf,)), (112, "<ff", (np.nan, 1)), (112, "<ff", (3e38, 3e38)), (123, "<b", (77,)),
            (344, "<4s", (b"ni1\0",)), (348, "<4b", (1, 0, 0, 0)),
        ][int(rng.integers(0, 18))]  # fmt: skip
        struct.pack_into(form, data, at, *values)
    elif name.endswith((".nrrd", ".mha")):
        swap = [(b"sizes: 14", b"sizes: 99"), (b"DimSize = 14", b"DimSize = 99"), (b"short", b"block"),
        (b"MET_SHORT", b"MET_DOUBL"),
                (b"ElementDataFile = LOCAL", b"ElementDataFile = ../xy"), (b"space origin", b"data file: /e"),
                (b"(", b"<")]  # fmt: skip
        for old, new in swap[int(rng.integers(0, 7)) :]:
            data = data.replace(old, new)
    elif name.endswith(".zip"):
        data = data.replace(b"study/plain.dcm", b"../../plain.dcm"[:15])
    return (gzip.compress(bytes(data)) if packed else bytes(data)), str(kind)


def test_damaged_files(dicom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    healthy = seeds(dicom, tmp_path_factory.mktemp("seeds"))
    names = sorted(healthy)
    work, target = folder / "deep" / "work", folder / "deep" / "target"
    work.mkdir(parents=True)
    slowest, refused, said = 0.0, 0, []
    for case in range(CASES):
        rng = np.random.default_rng(case)
        name = names[case % len(names)]
        data, kind = mutate(name, healthy[name], rng)
        path = work / name
        path.write_bytes(data)
        label = f"case {case}: {kind} of {name}"
        start = time.perf_counter()
        try:
            scan(path)
            convert(path, target)
        except InspectionError as error:
            refused += 1
            said.append((label, str(error)))
        except Exception as error:  # noqa: BLE001 - this is the very thing that is looked for
            pytest.fail(f"{label}: {type(error).__name__}: {error}")
        slowest = max(slowest, time.perf_counter() - start)
        assert slowest < SECONDS, f"{label} took {slowest:.1f} s"
        path.unlink()
    assert sorted(p.name for p in folder.iterdir()) == ["deep"]
    assert {p.name for p in (folder / "deep").iterdir()} <= {"work", "target"}
    assert list(work.iterdir()) == []
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak < MEMORY_BYTES, f"{peak / 2**30:.1f} GiB"
    assert refused > CASES // 5
    assert [label for label, text in said if "\n" in text or "Sally" in text or len(text) > 600] == []
    print(f"{CASES} cases, {refused} refused, slowest {slowest:.2f} s, peak {peak / 2**20:.0f} MiB")
