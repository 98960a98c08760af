"""Backends: from a peer's lease to the rows that make it reachable. Pure."""
