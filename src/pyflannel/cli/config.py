"""flannelctl config: the cluster's network config."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyflannel.cli import render
from pyflannel.cli.goflags import UsageError
from pyflannel.cli.which import Json, choose, with_store
from pyflannel.model.errors import ConfigError, ConfigMissing
from pyflannel.model.lease import Lease
from pyflannel.model.network import NetworkConfig
from pyflannel.model.node import Node, Past

if TYPE_CHECKING:
    from pyflannel.store.contract import Store

app = typer.Typer(help="The cluster's network config.", no_args_is_help=True, callback=choose, rich_markup_mode=None)
File = Annotated[str, typer.Argument(help="A file of JSON, or - for standard input.")]

# What a backend's fields are checked with: addresses from the documentation's ranges (RFC 5737, RFC 3849).
_SOME_NODE = Node(
    "any", "eth0", 2, 1500,
    IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"), IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"),
)  # fmt: skip


@app.command()
def get(context: typer.Context, as_json: Json = False) -> None:
    """Print it as it stands in the store; with --json also what it amounts to."""

    async def work(store: Store) -> tuple[str, str]:
        text = await store.config_text()
        if text is None:
            await store.network_config()  # says what is missing, and how to write it
            raise ConfigMissing(f"{store.name} holds no network config")
        return text, f"{store.name}/config"

    text, source = with_store(context, work)
    if as_json:
        _print_json(NetworkConfig.parse(text, source), text)
    else:
        print(text, end="" if text.endswith("\n") else "\n")


@app.command("set")
def set_(
    context: typer.Context,
    file: File,
    yes: Annotated[bool, typer.Option("--yes", help="Also if nodes can't use it or lose their subnets.")] = False,
    as_json: Json = False,
) -> None:
    """Check it, and put it into the store. Running daemons take it at their next start."""
    text, source = _read(file)
    config = NetworkConfig.parse(text, source)
    doubts = _doubts(config, source)

    async def work(store: Store) -> None:
        misfits = _misfits(config, await store.leases())
        found = [*doubts, *([misfits] if misfits else [])]
        if found and not yes:
            raise UsageError(f"{'; '.join(found)}. Nothing was changed; to store it all the same: --yes")
        await store.write_config(text)
        for doubt in found:
            print(f"flannelctl: {doubt}", file=sys.stderr)

    with_store(context, work, create=True)
    _show(config, text, as_json)


@app.command()
def validate(file: File, as_json: Json = False) -> None:
    """Check it, backend included, and say what it amounts to."""
    text, source = _read(file)
    config = NetworkConfig.parse(text, source)
    _check_backend(config, source)
    _show(config, text, as_json)


def _read(file: str) -> tuple[str, str]:
    """The text, and what errors call its place."""
    source = "standard input" if file == "-" else file
    try:
        return (sys.stdin.read() if file == "-" else Path(file).read_text()), source
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"{source} can't be read: {why}") from None


def _check_backend(config: NetworkConfig, source: str) -> None:
    """Raises ConfigError if there is no such backend, or its fields are wrong, on whatever node."""
    from pyflannel.backend.registry import factory

    try:
        factory(config)(config, _SOME_NODE, Past(), random.Random(0))
    except ConfigError as error:
        if error.source != "options":  # those are about the node, and this is none
            raise ConfigError(source, error.field, error.value, error.expected) from None


def _doubts(config: NetworkConfig, source: str) -> list[str]:
    try:
        _check_backend(config, source)
    except ConfigError as error:
        return [str(error)]
    return []


def _misfits(config: NetworkConfig, leases: Sequence[Lease]) -> str:
    """Which leases *config* takes away, in words; empty if none."""
    from pyflannel.store.allocate import fits

    found = [lease for lease in leases if not fits(config, lease.subnets)]
    if not found:
        return ""
    first = f"{found[0].subnets} of {found[0].attrs.address()}"
    return (
        f"{len(found)} of {len(leases)} leases don't fit it ({first}{', …' * (len(found) > 1)}): at their next start "
        "those nodes take other subnets, and their pods must be made anew"
    )


def _show(config: NetworkConfig, text: str, as_json: bool) -> None:
    if as_json:
        _print_json(config, text)
    else:
        print("\n".join(f"{name}: {value}" for name, value in render.config_words(config).items()))


def _print_json(config: NetworkConfig, text: str) -> None:
    print(json.dumps({"config": json.loads(text), "effective": render.config_dict(config)}, indent=1))
