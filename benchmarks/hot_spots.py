"""Where the time of a screening and of a volume goes, function by function: py-spy, which samples a running process.

    python benchmarks/hot_spots.py                     both, a few minutes; needs py-spy, of the extra [bench]
    python benchmarks/hot_spots.py --kinds volume      one of them

A share is that of the samples in which a thread was at work in a function itself. What it calls in other languages
counts for it: a convolution in OpenVINO for the function that asked for it. Threads that sleep are not counted, nor is
what the main thread did before: all of it is done once to be warm. Images are brushed metal, 256 x 256, preset fast;
the network and the volume are those of `scaling.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from common import ROOT, arguments, left_out, machine, render, table, write_json, write_textures

RATE = 100
MOST = 12
"""Functions of a table."""
WAITING = ("Condition.wait (", "_worker (concurrent/futures")
"""Functions that do nothing but wait, which py-spy cannot always tell from work."""
IMAGES, VOLUME = 300, (144, 256, 256)
KINDS = {
    "screening": f"`inspection screen`, preset fast, {IMAGES} images of 256 x 256",
    "volume": f"`predict`, a volume of {' x '.join(map(str, VOLUME))}, UNet, 3 classes",
}


def counted(work):
    """Do the work; samples of the main thread count where this function is among its callers."""
    work()


def run_here(kind: str, model: str, what: str, device: str) -> None:
    """Do in this process what is looked at."""
    from scaling import screen_here, volume_here

    work = (volume_here if kind == "volume" else screen_here)(model, what, device)
    work()  # compiles the network, and imports what tables and report need
    counted(work)


def sampled(raw: str) -> Counter[str]:
    """Return how many samples each function was at work in, of py-spy's raw format: stack, innermost last; number."""
    samples: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        ours = any(frame.startswith("counted (") for frame in frames) or "(threading.py" in frames[0]
        if ours and not frames[-1].startswith(WAITING):
            samples[frames[-1]] += int(number)
    return samples


def py_spy() -> str | None:
    """Return the place of py-spy, beside this Python or wherever programs are; None where it is not installed."""
    return shutil.which("py-spy", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def profile(kind: str, model: Path, what: str, device: str, scratch: Path) -> dict[str, int]:
    """Run a kind of work below py-spy; return samples by function, most first."""
    out = scratch / f"{kind}.txt"
    words = [sys.executable, __file__, "--run", kind, str(model), what, device]
    how = ["--rate", str(RATE), "--format", "raw", "--function", "--output", str(out)]
    done = subprocess.run(
        [py_spy(), "record", *how, "--", *words], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if "ermission" in done.stderr:
        raise PermissionError(done.stderr.strip().splitlines()[-1])
    if done.returncode or not out.exists():
        raise SystemExit(f"py-spy failed:\n{done.stdout}{done.stderr}")
    return dict(sampled(out.read_text()).most_common())


def result_table(kind: str, samples: dict[str, int]) -> dict:
    """Return the functions with most samples, and what all others have together."""
    whole = sum(samples.values())
    rows = [[f"`{name}`", f"{number / whole:.1%}"] for name, number in list(samples.items())[:MOST]]
    rest = whole - sum(list(samples.values())[:MOST])
    rows.append([f"{max(0, len(samples) - MOST)} others", f"{rest / whole:.1%}"])
    return table(f"{KINDS[kind]}: {whole / RATE:.0f} s of work in all threads", ["function", "share"], rows)


def main() -> int:
    """Sample each kind of work."""
    if sys.argv[1:2] == ["--run"]:
        run_here(*sys.argv[2:])
        return 0
    parser = arguments("hot_spots", __doc__)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    if py_spy() is None:
        return left_out("needs py-spy, of the extra [bench]")
    from scaling import still_network

    from inspection_core.learn import fit

    facts, found = machine(("inspection-suite", "torch", "openvino", "py-spy"), options.device), {}
    with tempfile.TemporaryDirectory(prefix="hot-spots-") as folder:
        scratch = Path(folder)
        try:
            for kind in options.kinds:
                if kind == "volume":
                    model, what = still_network(scratch), json.dumps(VOLUME)
                else:
                    write_textures(scratch / "good", 20)
                    model, what = scratch / "model", str(scratch / "images")
                    fit(scratch / "good", model, preset="fast", device=options.device)
                    write_textures(scratch / "images", IMAGES, first=1000)
                found[kind] = profile(kind, model, what, options.device, scratch)
        except PermissionError as error:
            return left_out(f"needs the right to look into another process (ptrace): {error}")
    print(render(write_json(options.out, facts, [result_table(*one) for one in found.items()], found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
