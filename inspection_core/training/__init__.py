"""Supervised training of segmentation networks: configuration, samples, augmentation, loop, and what becomes of it."""
