"""Widgets for the medical trade."""
