"""Architectures: the table of what can be loaded, and the protocol that each keeps."""
