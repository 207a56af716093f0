"""What a user may say about reading DICOM; types alone."""

from typing import Literal

Override = Literal["gaps", "irregular", "duplicates"]
"""What may be allowed, so that a volume that lacks something is loaded all the same."""

Scaling = Literal["precise", "displayed"]
"""Which values of Philips MR are wanted."""
