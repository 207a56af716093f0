"""Widgets for the industrial trade."""
