"""Which store the operator's commands talk to: the same options and FLANNELD_* variables as flanneld's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from pyflannel.cli.options import parse
from pyflannel.cli.stores import open_store
from pyflannel.store.contract import Store

T = TypeVar("T")

StoreKind = Annotated[str, typer.Option("--store", help="etcd, local, or auto.")]
LocalStore = Annotated[str, typer.Option("--local-store", help="File of the embedded store.")]
Endpoints = Annotated[str, typer.Option("--etcd-endpoints", help="A comma list.")]
Prefix = Annotated[str, typer.Option("--etcd-prefix", help="Prefix of the keys in the store.")]
Ca = Annotated[str, typer.Option("--etcd-cafile")]
Cert = Annotated[str, typer.Option("--etcd-certfile")]
Key = Annotated[str, typer.Option("--etcd-keyfile")]
User = Annotated[str, typer.Option("--etcd-username")]
Json = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


def choose(
    context: typer.Context,
    store: StoreKind = "",
    local_store: LocalStore = "",
    etcd_endpoints: Endpoints = "",
    etcd_prefix: Prefix = "",
    etcd_cafile: Ca = "",
    etcd_certfile: Cert = "",
    etcd_keyfile: Key = "",
    etcd_username: User = "",
) -> None:
    """Keep what was given for `with_store`. The password comes from FLANNELD_ETCD_PASSWORD: a command line is seen by
    everybody on the machine."""
    given = {
        "store": store, "local-store": local_store, "etcd-endpoints": etcd_endpoints, "etcd-prefix": etcd_prefix,
        "etcd-cafile": etcd_cafile, "etcd-certfile": etcd_certfile, "etcd-keyfile": etcd_keyfile,
        "etcd-username": etcd_username,
    }  # fmt: skip
    context.obj = [f"--{name}={value}" for name, value in given.items() if value]


def with_store(context: typer.Context, work: Callable[[Store], Awaitable[T]]) -> T:
    """What *work* gives with the store that was chosen."""
    arguments: list[str] = context.obj or []

    async def go() -> T:
        store = open_store(parse(arguments, os.environ))
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(go())
