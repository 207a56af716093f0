"""napari plugin of the inspection suite: open, run, review, correct."""
