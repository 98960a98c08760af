"""flannelctl config: the cluster's network config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pyflannel.cli.which import choose, with_store
from pyflannel.model.errors import ConfigError, ConfigMissing
from pyflannel.model.network import NetworkConfig
from pyflannel.store.contract import Store

app = typer.Typer(help="The cluster's network config.", no_args_is_help=True, callback=choose)
File = Annotated[str, typer.Argument(help="A file of JSON, or - for standard input.")]


@app.command()
def get(context: typer.Context) -> None:
    """Print it as it stands in the store."""

    async def work(store: Store) -> str:
        text = await store.config_text()
        if text is None:
            await store.network_config()  # says what is missing, and how to write it
            raise ConfigMissing(f"{store.name} holds no network config")
        return text

    print(with_store(context, work))


@app.command("set")
def set_(context: typer.Context, file: File) -> None:
    """Check it, and put it into the store. Running daemons take it at their next start."""
    text = _read(file)
    config = NetworkConfig.parse(text, _name(file))
    with_store(context, lambda store: store.write_config(text))
    print(_summary(config))


@app.command()
def validate(file: File) -> None:
    """Check it, and say what it means."""
    print(_summary(NetworkConfig.parse(_read(file), _name(file))))


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("arguments", "FILE", file, f"a readable file ({error})") from None


def _name(file: str) -> str:
    return "standard input" if file == "-" else file


def _summary(config: NetworkConfig) -> str:
    found: dict[str, str] = {}
    if config.network is not None:
        found["IPv4"] = (
            f"{config.network}, a /{config.subnet_len} a node from {config.subnet_min} to {config.subnet_max}"
        )
    if config.ipv6_network is not None:
        span = f"from {config.ipv6_subnet_min} to {config.ipv6_subnet_max}"
        found["IPv6"] = f"{config.ipv6_network}, a /{config.ipv6_subnet_len} a node {span}"
    found["backend"] = config.backend_type
    return "\n".join(f"{name}: {value}" for name, value in found.items())
