"""Which store the operator's commands talk to: the same options and FLANNELD_* variables as flanneld's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pyflannel.cli.options import BY_NAME, Options, parse

if TYPE_CHECKING:
    from pyflannel.store.contract import Store

T = TypeVar("T")

STORE_FLAGS = tuple(name for name in BY_NAME if name in ("store", "local-store") or name.startswith("etcd-"))
_HEAVY = ("lab", "cloud")  # groups whose options are their own: `lab up --store etcd` means another thing

Json = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


def _option(name: str, help_: str = "") -> typer.models.OptionInfo:
    info: typer.models.OptionInfo = typer.Option(f"--{name}", help=help_ or BY_NAME[name].help, show_default=False)
    return info


def choose(
    context: typer.Context,
    store: Annotated[str, _option("store")] = "",
    local_store: Annotated[str, _option("local-store")] = "",
    etcd_endpoints: Annotated[str, _option("etcd-endpoints")] = "",
    etcd_prefix: Annotated[str, _option("etcd-prefix")] = "",
    etcd_cafile: Annotated[str, _option("etcd-cafile")] = "",
    etcd_certfile: Annotated[str, _option("etcd-certfile")] = "",
    etcd_keyfile: Annotated[str, _option("etcd-keyfile")] = "",
    etcd_username: Annotated[str, _option("etcd-username")] = "",
    etcd_password: Annotated[str, _option("etcd-password")] = "",
) -> None:
    """Keep what was given for `with_store`."""
    given = {
        "store": store, "local-store": local_store, "etcd-endpoints": etcd_endpoints, "etcd-prefix": etcd_prefix,
        "etcd-cafile": etcd_cafile, "etcd-certfile": etcd_certfile, "etcd-keyfile": etcd_keyfile,
        "etcd-username": etcd_username, "etcd-password": etcd_password,
    }  # fmt: skip
    context.obj = [f"--{name}={value}" for name, value in given.items() if value]


def chosen(context: typer.Context) -> Options:
    """What was chosen, by option or variable. Raises UsageError."""
    arguments: list[str] = context.obj or []
    # Of flanneld's variables only the store's: what else is wrong there is flanneld's business.
    variables = {BY_NAME[name].variable for name in STORE_FLAGS}
    return parse(arguments, {name: text for name, text in os.environ.items() if name in variables})


def with_store(context: typer.Context, work: Callable[[Store], Awaitable[T]], *, create: bool = False) -> T:
    """What *work* gives with the store that was chosen; without *create* one that isn't there is an error."""
    from pyflannel.cli.stores import open_store

    options = chosen(context)

    async def go() -> T:
        store = open_store(options, create=create)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(go())


def hoisted(words: Sequence[str]) -> list[str]:
    """The command line with the store's options moved behind the group's name, wherever they stood.

    >>> hoisted(["leases", "list", "--json", "--store", "etcd"])
    ['leases', '--store', 'etcd', 'list', '--json']
    """
    moved: list[str] = []
    left: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--" or (not left and word in _HEAVY):
            left += [word, *rest]
            break
        name, equals, _ = word.removeprefix("-").removeprefix("-").partition("=")
        if not word.startswith("-") or name not in STORE_FLAGS:
            left.append(word)
            continue
        moved.append(f"--{word.lstrip('-')}")
        if not equals and rest:
            moved.append(rest.pop(0))
    return [*left[:1], *moved, *left[1:]]
