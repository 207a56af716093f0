"""Keep torch's compiler out of a process whose graphics driver has loaded LLVM.

Importing timm or torchvision makes torch look for triton, whose library carries an LLVM of its own. Mesa's drivers
(AMD, Intel, and all software rendering) have loaded another by then, and the process ends with a segmentation fault.
Nothing in the suite compiles networks, so nothing is lost.
"""

from __future__ import annotations

import sys
from pathlib import Path

MAPS = Path("/proc/self/maps")
"""What this process has loaded, on Linux."""


def keep_compiler_out() -> bool:
    """Make triton look absent where it could not be loaded; say whether that was needed."""
    if sys.modules.get("triton") is not None:  # it is there, and the process lives
        return False
    try:
        clash = "libLLVM" in MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system: its drivers bring no such library
        return False
    if clash:
        sys.modules["triton"] = None  # type: ignore[assignment]  # Python's own way to say "there is none"
    return clash
