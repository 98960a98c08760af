"""The daemon: where the floors are wired together."""
