"""Formats: bytes or text to values and back. No sockets, no files."""
