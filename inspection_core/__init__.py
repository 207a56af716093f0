"""One inference core for anomaly, defect and tumour models.

For research and inspection; not a medical device. Importing this package imports neither torch nor Qt:
``from inspection_core.infer import predict`` and its neighbours bring in what they need.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("inspection-suite")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

__all__ = ["__version__"]
