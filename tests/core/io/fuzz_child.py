"""The child process of `test_fuzz`: damages files, reads them, and tells what happened. No test by itself.

It runs alone so that its memory is its own and measured, a crash of a decoder is seen, and a hang ends by an alarm.
Usage: ``fuzz_child.py SEEDS WORK CASES FIRST_CASE``; the result is one JSON line.
"""

import contextlib
import gzip
import io
import json
import resource
import shutil
import signal
import struct
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np

from inspection_core.convert import convert
from inspection_core.deidentify import deidentify
from inspection_core.errors import InspectionError
from inspection_core.scan import scan

ADDRESS_SPACE = 6 << 30
"""More than the limit that is tested, so that a bomb is reported and does not take the machine with it."""
ALARM_SECONDS = 60


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
        data = bytearray(evil_archive(int(rng.integers(0, 6)), bytes(data)))
    return (gzip.compress(bytes(data)) if packed else bytes(data)), str(kind)


def evil_archive(kind, healthy):
    """Return a zip whose members lie: outside the target, absolute, links, bombs, or a damaged table."""
    if kind == 0:
        return healthy.replace(b"study/plain.dcm", b"../../plain.dcm")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        if kind == 1:
            archive.writestr("/tmp/evil.dcm", b"x")  # noqa: S108 - the very thing that must not be written
        elif kind == 2:
            link = zipfile.ZipInfo("link.dcm")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
        elif kind == 3:
            archive.writestr("bomb.dcm", b"\0" * 128 + b"DICM" + b"\0" * (64 << 20))
        elif kind == 4:
            archive.writestr("bomb.nii", bytes(64 << 20))
            archive.writestr("C:\\evil.dcm", b"x")
        else:
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as nested:
                nested.writestr("deep.dcm", bytes(16 << 20))
            archive.writestr("nested.zip", inner.getvalue())
    data = bytearray(packed.getvalue())
    if kind == 3:  # a table that claims less than there is, and one that claims far more
        at = data.find(b"PK\x01\x02")
        struct.pack_into("<I", data, at + 24, 0xFFFFFFF0 if len(data) % 2 else 100)
    return bytes(data)


def one(path, target, case):
    scan(path)
    if case % 3 == 0:
        with contextlib.suppress(InspectionError):
            deidentify(path, target / f"d{case}", allow_burned_in=True)
        shutil.rmtree(target / f"d{case}", ignore_errors=True)
    convert(path, target)


def main(seeds, work, cases, first):
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    warnings.simplefilter("error")
    healthy = {p.name: p.read_bytes() for p in sorted(seeds.iterdir())}
    names, target = sorted(healthy), work.parent / "target"
    slowest, longest, refused, said, wrong = (0.0, ""), (0.0, ""), 0, [], []
    for case in range(first, first + cases):
        rng = np.random.default_rng(case)
        name = names[case % len(names)]
        data, kind = mutate(name, healthy[name], rng)
        path = work / name
        path.write_bytes(data)
        label = f"case {case}: {kind} of {name}"
        (work.parent / "last").write_text(label)
        signal.alarm(ALARM_SECONDS)
        start, clock = time.process_time(), time.perf_counter()
        try:
            one(path, target, case)
        except InspectionError as error:
            refused += 1
            if "\n" in str(error) or "Sally" in str(error) or len(str(error)) > 600:
                said.append((label, str(error)))
        except BaseException as error:  # noqa: BLE001 - this is the very thing that is looked for
            wrong.append((label, f"{type(error).__name__}: {error}"))
        signal.alarm(0)
        slowest = max(slowest, (time.process_time() - start, label))
        longest = max(longest, (time.perf_counter() - clock, label))
        path.unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {"slowest": slowest, "longest": longest, "refused": refused, "said": said, "wrong": wrong, "peak": peak}
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
