"""flannelctl: the operator's tool."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import typer

from pyflannel import __version__
from pyflannel.cli.goflags import UsageError
from pyflannel.cli.which import hoisted
from pyflannel.model.errors import FlannelError

GROUPS = ("config", "leases", "cloud", "lab")  # each a module of this package, imported only if it's asked for
# Commands of a node → the module of this package that has them.
NODE = {"status": "status", "engine": "status", "install-cni": "install", "adopt": "adopt"}
PASSED = {"adopt": {"allow_extra_args": True, "ignore_unknown_options": True}}  # those that take flanneld's flags

app = typer.Typer(
    help="Look at and steer a pyflannel (or flannel) network.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: half the time to the first line
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def version() -> None:
    """Print the version."""
    print(f"pyflannel {__version__}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Exit codes: 0 done, 1 it could not be done (one line says why), 2 a wrong call."""
    words = hoisted(sys.argv[1:] if arguments is None else arguments)
    asked = words[0] if words else ""
    for name in () if asked in GROUPS else (asked,) if asked in NODE else NODE:
        module = import_module(f"pyflannel.cli.{NODE[name]}")
        app.command(name, context_settings=PASSED.get(name))(getattr(module, name.replace("-", "_")))
    for name in () if asked in NODE else GROUPS if asked not in GROUPS else (asked,):
        group: typer.Typer = import_module(f"pyflannel.cli.{name}").app
        app.add_typer(group, name=name)
    try:
        app(words, prog_name="flannelctl")
    except FlannelError as error:
        print(f"flannelctl: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    sys.exit(0)


if __name__ == "__main__":
    main()
