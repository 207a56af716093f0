"""How fast a CT series is read, side by side with others, and how much memory that takes.

    python benchmarks/reading.py                            500 slices, stored plainly, as RLE and as JPEG 2000
    python benchmarks/reading.py --slices 40 --rounds 2     a quick look

A synthetic CT (ellipses and noise of 15 HU, 12 bits in 16, rescale intercept -1024) is written to a temporary folder.
Each reader gets its volume in a process of its own, so that peak memory and imports are its own; imports and start are
not timed. Readers take turns within a round, and ratios are formed within a round, so that what else the machine does
strikes all alike. Files are in the system's cache: what is measured is reading and decoding, not the disk.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

SIDE = 512
SYNTAXES = {"plain": None, "jpeg2000": "1.2.840.10008.1.2.4.90", "jpegls": "1.2.840.10008.1.2.4.80",
            "rle": "1.2.840.10008.1.2.5"}  # fmt: skip
READERS = ("ours", "pydicom", "monai", "simpleitk")
TITLES = {
    "ours": "inspection_core.io.dicom.read_dicom",
    "pydicom": "pydicom alone: dcmread, pixel_array, rescale, in a loop",
    "monai": "MONAI PydicomReader",
    "simpleitk": "SimpleITK ImageSeriesReader",
}


# Readers: each returns the volume ------------------------------------------------------------------------------------


def read_ours(folder):
    from inspection_core.io.dicom import read_dicom

    return read_dicom(folder).image.array


def read_pydicom(folder):
    """Decode file by file into one array; neither sorted nor checked."""
    import pydicom

    files = sorted(Path(folder).iterdir())
    out = np.empty((len(files), SIDE, SIDE), np.int16)
    for k, file in enumerate(files):
        ds = pydicom.dcmread(file)
        out[k] = ds.pixel_array.astype(np.int32) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)
    return out


def read_monai(folder):
    from monai.data import PydicomReader

    reader = PydicomReader()
    return reader.get_data(reader.read(folder))[0]


def read_simpleitk(folder):
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return SimpleITK.GetArrayFromImage(reader.Execute())


def warm_up(reader, folder):
    """Import everything and read one slice, untimed."""
    with tempfile.TemporaryDirectory() as one:
        first = sorted(Path(folder).iterdir())[0]
        (Path(one) / first.name).write_bytes(first.read_bytes())
        globals()[f"read_{reader}"](one)


def peak_bytes():
    """Highest resident memory of this process so far, in bytes (Linux)."""
    line = next(t for t in Path("/proc/self/status").read_text().splitlines() if t.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_here(reader, folder):
    """Read once in this process; print seconds, peak memory beyond the start, and a checksum of the values."""
    warm_up(reader, folder)
    Path("/proc/self/clear_refs").write_text("5")  # start counting the peak anew
    before = peak_bytes()
    cpu, wall = time.process_time(), time.perf_counter()
    volume = globals()[f"read_{reader}"](folder)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({
        "seconds": wall, "cpu_seconds": cpu, "peak_mib": (peak_bytes() - before) / 2**20,
        "sum": float(np.asarray(volume).sum(dtype=np.float64)), "voxels": int(np.asarray(volume).size),
        "dtype": str(np.asarray(volume).dtype),
    }))  # fmt: skip


# The series ----------------------------------------------------------------------------------------------------------


def write_series(folder, slices, syntax):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) * 2 - 1
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(slices):
        z = k / slices * 2 - 1
        hu = np.full((SIDE, SIDE), -1000.0)
        hu[(x / 0.85) ** 2 + (y / 0.6) ** 2 + 0.1 * z**2 < 1] = 40
        for side in (-1, 1):
            hu[((x - 0.4 * side) / 0.3) ** 2 + (y / 0.4) ** 2 < 1 - 0.5 * z**2] = -850
        hu[(x / 0.1) ** 2 + ((y - 0.4) / 0.1) ** 2 < 1] = 700
        stored = np.clip(np.rint(hu + rng.normal(0, 15, hu.shape)) + 1024, 0, 4095).astype(np.uint16)
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, generate_uid(), "CT"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.SeriesNumber, ds.InstanceNumber = "Phantom", "phantom", 1, k + 1
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-175, -175, 0.8 * k]
        ds.PixelSpacing, ds.SliceThickness = [0.683, 0.683], 0.8
        ds.Rows = ds.Columns = SIDE
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
        ds.PixelData = stored.tobytes()
        ds["PixelData"].VR = "OW"
        if syntax:
            ds.compress(syntax)
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            CTImageStorage,
            ds.SOPInstanceUID,
        )
        ds.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)


# Rounds --------------------------------------------------------------------------------------------------------------


def one_run(reader, folder):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[1]), *sys.path[1:]]),
    }
    command = [sys.executable, __file__, "--measure", reader, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["failed"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def run(name, slices, rounds, readers, work):
    folder = Path(work) / name
    folder.mkdir()
    write_series(folder, slices, SYNTAXES[name])
    size = sum(f.stat().st_size for f in folder.iterdir()) / 2**20
    results = {reader: [] for reader in readers}
    for k in range(rounds):
        for reader in readers[k % len(readers) :] + readers[: k % len(readers)]:  # nobody is always first
            results[reader].append(one_run(reader, folder))
            print(f"  {name} round {k + 1}: {reader} {results[reader][-1]}", file=sys.stderr, flush=True)
    return {"syntax": name, "uid": SYNTAXES[name], "slices": slices, "mib_on_disk": size, "runs": results}


def table(result):
    ours = result["runs"].get("ours", [])
    title = f"{result['syntax']}, {result['slices']} slices, {result['mib_on_disk']:.0f} MiB on disk"
    rows = [f"| {title} | seconds | times ours | CPU seconds | peak memory, MiB |", "| --- | --- | --- | --- | --- |"]
    for reader, runs in result["runs"].items():
        if any("error" in r for r in runs):
            rows.append(f"| {TITLES[reader]} | failed: {next(r['error'] for r in runs if 'error' in r)[:60]} | | | |")
            continue
        ratios = [r["seconds"] / o["seconds"] for r, o in zip(runs, ours, strict=False) if "seconds" in o]
        rows.append(
            f"| {TITLES[reader]} | {spread([r['seconds'] for r in runs])} | {spread(ratios) if ratios else ''} "
            f"| {spread([r['cpu_seconds'] for r in runs])} | {statistics.median(r['peak_mib'] for r in runs):.0f} |"
        )
    return "\n".join(rows)


def machine():
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((t.split(":")[1].strip() for t in info.read_text().splitlines() if t.startswith("model name")), cpu)
    packages = ("pydicom", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "numpy", "monai", "simpleitk")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": cpu, "cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg(),
        "python": platform.python_version(), "versions": versions, "date": date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
    }  # fmt: skip


def main():
    if sys.argv[1:2] == ["--measure"]:
        return measure_here(sys.argv[2], sys.argv[3])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="taken and not used: no network is in it")
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--syntaxes", default="plain,rle,jpeg2000", help=f"of {', '.join(SYNTAXES)}")
    parser.add_argument("--readers", default=",".join(READERS))
    parser.add_argument("--out", type=Path, default=Path("benchmark-results/reading.json"))
    options = parser.parse_args()
    facts, results = machine(), []
    with tempfile.TemporaryDirectory(prefix="reading-") as work:
        for name in options.syntaxes.split(","):
            results.append(run(name, options.slices, options.rounds, tuple(options.readers.split(",")), work))
            print(table(results[-1]) + "\n", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": facts, "results": results}, indent=1))
    print(f"{facts['cpu']}, {facts['cores']} cores, load before {facts['load_before'][0]:.1f}; {facts['date']}")
    print(f"JSON: {options.out}")
    return 0 if all(same_values(result) for result in results) else 1


def same_values(result):
    """Tell whether all readers gave the same values, by their sum; say so where they did not."""
    sums = {reader: {r["sum"] for r in runs if "sum" in r} for reader, runs in result["runs"].items()}
    same = len(set().union(*sums.values())) <= 1
    if not same:
        print(f"{result['syntax']}: the readers do not agree on the values: {sums}", file=sys.stderr)
    return same


if __name__ == "__main__":
    sys.exit(main())
