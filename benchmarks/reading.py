"""How fast a CT series and a folder of images are read, side by side with others, and how much memory that takes.

    python benchmarks/reading.py                            200 slices, 100 images
    python benchmarks/reading.py --sets jpeg2000,jpegls     other ways to compress
    python benchmarks/reading.py --slices 40 --rounds 2     a quick look

A synthetic CT (ellipses and noise of 15 HU, 12 bits in 16, rescale intercept -1024), and grey images of 1,024 x 1,024,
are written to a temporary folder. Each reader gets them in a process of its own, so that peak memory and imports are
its own; imports and start are not timed. Readers take turns within a round, and ratios are formed within a round, so
that what else the machine does strikes all alike. Files are in the system's cache, except in the set "cold", which the
system is asked to forget before each reading. Images are read one by one and given up, as a screening does it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import arguments, in_process, machine, measured, ratios, render, spread, table, write_json, write_textures

SIDE, IMAGE_SIDE = 512, 1024
SERIES = {
    "plain": None,
    "cold": None,
    "rle": "1.2.840.10008.1.2.5",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
    "jpegls": "1.2.840.10008.1.2.4.80",
}
"""Sets of slices, with the transfer syntax that they are compressed in."""
IMAGES = {"png": {}, "jpeg": {"quality": 90}}
"""Sets of images, with how Pillow writes them."""
TITLES = {
    "plain": "CT, stored plainly",
    "cold": "CT, stored plainly, not in the system's cache",
    "rle": "CT, RLE",
    "jpeg2000": "CT, JPEG 2000 without loss",
    "jpegls": "CT, JPEG-LS without loss",
    "png": "grey PNG of 1,024 x 1,024",
    "jpeg": "grey JPEG of 1,024 x 1,024, quality 90",
    "ours": "inspection_core.io.dicom.read_dicom",
    "pydicom": "pydicom alone: dcmread, pixel_array, rescale, in a loop",
    "monai": "MONAI PydicomReader",
    "simpleitk": "SimpleITK ImageSeriesReader",
    "images": "read_raster, in the threads that a screening reads with",
    "loop": "read_raster, in a loop",
    "pillow": "Pillow alone, in a loop",
}
READERS = {"ours": "inspection_core", "pydicom": "pydicom", "monai": "monai", "simpleitk": "SimpleITK"}
"""Of series, with the module that each needs."""
IMAGE_READERS = {"images": "inspection_core", "loop": "inspection_core", "pillow": "PIL"}
PACKAGES = ("inspection-suite", "pydicom", "pylibjpeg-openjpeg", "pylibjpeg-rle", "numpy", "pillow", "imagecodecs",
            "monai", "simpleitk")  # fmt: skip


# Readers: each returns the volume, or the sums of its images ----------------------------------------------------------


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


def read_images(folder):
    from inspection_core.io.raster import read_raster
    from inspection_core.io.stream import read_ahead

    return [image.array.sum(dtype=np.int64) for image in read_ahead(sorted(Path(folder).iterdir()), read_raster)]


def read_loop(folder):
    from inspection_core.io.raster import read_raster

    return [read_raster(path).array.sum(dtype=np.int64) for path in sorted(Path(folder).iterdir())]


def read_pillow(folder):
    from PIL import Image

    return [np.asarray(Image.open(path)).sum(dtype=np.int64) for path in sorted(Path(folder).iterdir())]


def warm_up(reader, folder):
    """Import everything and read one file, untimed."""
    with tempfile.TemporaryDirectory() as one:
        first = sorted(Path(folder).iterdir())[0]
        (Path(one) / first.name).write_bytes(first.read_bytes())
        globals()[f"read_{reader}"](one)


def forget(folder):
    """Ask the system to give up what it keeps of a folder's files in memory."""
    for path in Path(folder).iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not on the disk yet cannot be given up
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_here(reader, folder, cold):
    """Read once in this process; print seconds, peak memory beyond the start, and a checksum of the values."""
    warm_up(reader, folder)
    if cold == "cold":
        forget(folder)
    values, figures = measured(lambda: globals()[f"read_{reader}"](folder))
    values = np.asarray(values)
    print(json.dumps({**figures, "sum": float(values.sum(dtype=np.float64)), "voxels": values.size}))


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


def write_images(folder, count, form, how):
    """Write images of a few textures, turned so that no two are alike."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as scratch:
        write_textures(Path(scratch), 8, (IMAGE_SIDE, IMAGE_SIDE))
        textures = [np.asarray(Image.open(path)) for path in sorted(Path(scratch).iterdir())]
    for k in range(count):
        Image.fromarray(np.roll(textures[k % 8], k, axis=0)).save(folder / f"{k:04d}.{form}", **how)


# Rounds --------------------------------------------------------------------------------------------------------------


def run(name, count, rounds, readers, work):
    """Write a set and let each reader read it in each round."""
    folder = Path(work) / name
    folder.mkdir()
    if name in IMAGES:
        write_images(folder, count, name, IMAGES[name])
    else:
        write_series(folder, count, SERIES[name])
    size = sum(f.stat().st_size for f in folder.iterdir()) / 2**20
    runs = {reader: [] for reader in readers}
    here = [reader for reader in readers if importlib.util.find_spec((READERS | IMAGE_READERS)[reader])]
    for k in range(rounds):
        for reader in here[k % len(here) :] + here[: k % len(here)]:  # nobody is always first
            runs[reader].append(in_process(__file__, "--measure", reader, folder, name))
            print(f"  {name} round {k + 1}: {reader} {runs[reader][-1]}", file=sys.stderr, flush=True)
    for file in folder.iterdir():
        file.unlink()
    return {"set": name, "files": count, "mib_on_disk": size, "runs": runs}


def result_table(result):
    """Return a set's table."""
    ours = next(iter(result["runs"].values()))
    title = f"{TITLES[result['set']]}: {result['files']} files, {result['mib_on_disk']:.0f} MiB on disk"
    rows = []
    for reader, runs in result["runs"].items():
        if not runs or any("error" in r for r in runs):
            why = next((f"failed: {r['error'][:80]}" for r in runs if "error" in r), "not installed")
            rows.append([TITLES[reader], why, "", "", ""])
            continue
        rows.append([
            TITLES[reader], spread([r["seconds"] for r in runs]), spread(ratios(runs, ours, "seconds")),
            spread([r["cpu_seconds"] for r in runs]), spread([r["peak_mib"] for r in runs], ".0f"),
        ])  # fmt: skip
    return table(title, ["", "seconds", "times ours", "CPU seconds", "peak memory, MiB"], rows)


def main():
    if sys.argv[1:2] == ["--measure"]:
        measure_here(*sys.argv[2:])
        return 0
    parser = arguments("reading", __doc__)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sets", default="plain,cold,rle,png,jpeg", help=f"of {', '.join([*SERIES, *IMAGES])}")
    parser.add_argument("--readers", default=",".join(READERS), help="of the series")
    options = parser.parse_args()
    facts, results = machine(PACKAGES), []
    names = options.sets.split(",")
    if "cold" in names and not hasattr(os, "posix_fadvise"):
        names.remove("cold")  # the system cannot be asked
    with tempfile.TemporaryDirectory(prefix="reading-") as work:
        for name in names:
            readers = tuple(IMAGE_READERS) if name in IMAGES else tuple(options.readers.split(","))
            results.append(
                run(name, options.images if name in IMAGES else options.slices, options.rounds, readers, work)
            )
    print(render(write_json(options.out, facts, [result_table(r) for r in results], results)))
    failed = any("error" in r for result in results for runs in result["runs"].values() for r in runs)
    return 0 if all([*map(same_values, results), not failed]) else 1


def same_values(result):
    """Tell whether all readers gave the same values, by their sum; say so where they did not."""
    sums = {reader: {r["sum"] for r in runs if "sum" in r} for reader, runs in result["runs"].items()}
    same = len(set().union(*sums.values())) <= 1
    if not same:
        print(f"{result['set']}: the readers do not agree on the values: {sums}", file=sys.stderr)
    return same


if __name__ == "__main__":
    sys.exit(main())
