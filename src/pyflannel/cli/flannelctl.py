"""flannelctl: the operator's tool."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from pyflannel import __version__
from pyflannel.model.errors import FlannelError

app = typer.Typer(
    help="Look at and steer a pyflannel (or flannel) network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def version() -> None:
    """Print the version."""
    print(f"pyflannel {__version__}")


def main() -> NoReturn:
    """Exit codes: 0 done, 1 it could not be done (one line says why), 2 a wrong call."""
    # Only the branch that is asked for is imported: the lab and the stores are heavy.
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    asked = words[0] if words else ""
    if asked in ("lab", "") or "--help" in sys.argv:
        from pyflannel.cli.lab import app as lab

        app.add_typer(lab, name="lab")
    if asked in ("config", "leases", "") or "--help" in sys.argv:
        from pyflannel.cli.config import app as config
        from pyflannel.cli.leases import app as leases

        app.add_typer(config, name="config")
        app.add_typer(leases, name="leases")
    try:
        app()
    except FlannelError as error:
        print(f"flannelctl: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
