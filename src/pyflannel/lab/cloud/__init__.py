"""Emulated clouds for the lab and the tests: their APIs over one state, and a router that forwards by it."""
