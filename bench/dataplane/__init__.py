"""The data planes side by side: `python -m bench.dataplane`, as root. See README.md here."""
