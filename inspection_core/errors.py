"""Every error that the suite raises for its user.

The tree::

    InspectionError            anything below; its text is one clear line for a user
    ├── UsageError             the request makes no sense (exit status 2)
    ├── ReadError              a file or folder cannot be read as what it claims to be
    ├── GeometryError          shapes, affines or units do not fit together
    ├── ModelError             a model folder, card or weights file is missing, damaged or unknown
    ├── FitError               a model cannot be made from the images given
    ├── DeviceError            the device asked for is absent, or out of memory on every rung
    ├── EngineError            the server that holds a model cannot be reached, refuses, or answers what makes no sense
    └── CancelledError         whoever asked for a result no longer wants it

A message says what was expected, what came, and what to do next.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return text as one line that no terminal takes for a command: a file's name may hold anything."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class InspectionError(Exception):
    """An error whose text is meant for the user: one line, no traceback needed."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class UsageError(InspectionError):
    """The request itself makes no sense, whatever the data."""


class ReadError(InspectionError):
    """A file or folder cannot be read as what it claims to be."""


class GeometryError(InspectionError):
    """Shapes, affines or units do not fit together."""


class ModelError(InspectionError):
    """A model folder, card or weights file is missing, damaged or unknown."""


class FitError(InspectionError):
    """A model cannot be made from the images given."""


class DeviceError(InspectionError):
    """The device asked for is absent, or out of memory on every rung of the ladder."""


class EngineError(InspectionError):
    """The server that holds a model cannot be reached, refuses, or answers what makes no sense.

    It says nothing about the image at hand: a batch stops at it instead of counting the image as failed.
    """


class CancelledError(InspectionError):
    """Whoever asked for a result no longer wants it; nothing is wrong."""
