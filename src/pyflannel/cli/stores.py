"""From options to a store. What a store needs is imported only when it's chosen."""

from __future__ import annotations

from pathlib import Path

from pyflannel.cli.options import Options, UsageError
from pyflannel.store.contract import Store


def open_store(options: Options) -> Store:
    """The store that *options* name. Connects when first used. Raises ConfigError, UsageError."""
    if options.store_kind == "kubernetes":
        raise UsageError("Kubernetes as the store is not in this version: use etcd (--etcd-endpoints) or --store=local")
    if options.store_kind == "local":
        from pyflannel.store.local.store import local_store

        return local_store(Path(options.local_store), options.etcd_prefix)
    from pyflannel.store.etcd.store import etcd_store
    from pyflannel.store.etcd.transport import TlsFiles

    cert, key = options.etcd_certfile, options.etcd_keyfile
    if bool(cert) != bool(key):
        raise UsageError("--etcd-certfile and --etcd-keyfile go together")
    ca = options.etcd_cafile
    tls = TlsFiles(Path(ca) if ca else None, Path(cert) if cert else None, Path(key) if key else None)
    endpoints = [endpoint for endpoint in options.etcd_endpoints.split(",") if endpoint]
    return etcd_store(endpoints, options.etcd_prefix, tls, options.etcd_username, options.etcd_password)
