"""``python -m inspection_core`` is the ``inspection`` command."""

from inspection_core.cli import main

main()
