"""From options to a store. What a store needs is imported only when it's chosen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pyflannel.cli.options import Options, UsageError
from pyflannel.model.errors import StoreError
from pyflannel.store.contract import Store


def open_store(options: Options, *, create: bool = True) -> Store:
    """The store that *options* name. Connects when first used.

    Without *create* an embedded store that isn't there is an error instead of a new, empty one. Raises UsageError,
    ConfigError, StoreError.
    """
    if options.store_kind == "kubernetes":
        return _kubernetes(options, os.environ)
    if options.store_kind == "local":
        return _local(options, create)
    return _etcd(options)


def _local(options: Options, create: bool) -> Store:
    path = Path(options.local_store)
    if not create and not path.exists():
        raise StoreError(
            f"there is no embedded store at {path} yet: flanneld or `flannelctl config set` makes it. Is it elsewhere "
            "(--local-store), or does this cluster use etcd (--etcd-endpoints)?"
        )
    from pyflannel.store.local.store import local_store

    return local_store(path, options.etcd_prefix)


def _kubernetes(options: Options, environment: Mapping[str, str]) -> Store:
    from pyflannel.store.kubernetes.access import at_url, from_kubeconfig, in_cluster
    from pyflannel.store.kubernetes.annotations import Annotations
    from pyflannel.store.kubernetes.client import Api
    from pyflannel.store.kubernetes.store import KubernetesStore

    if options.kubeconfig_file:
        access = from_kubeconfig(Path(options.kubeconfig_file), options.kube_api_url)
    else:
        access = at_url(options.kube_api_url) if options.kube_api_url else in_cluster(environment)
    pod = environment.get("POD_NAMESPACE", ""), environment.get("POD_NAME", "")
    named = "node-name" in options.given or environment.get("NODE_NAME")
    return KubernetesStore(
        Api(access),
        Path(options.net_config_path),
        Annotations(options.kube_annotation_prefix),
        None if all(pod) and not named else options.node_name.lower(),  # as kubelets name their nodes
        pod if all(pod) else None,
        set_condition=options.set_node_network_unavailable,
    )


def _etcd(options: Options) -> Store:
    cert, key, ca = (
        Path(text) if text else None for text in (options.etcd_certfile, options.etcd_keyfile, options.etcd_cafile)
    )
    if (cert is None) != (key is None):
        raise UsageError("--etcd-certfile and --etcd-keyfile go together: a client certificate needs its key")
    if bool(options.etcd_username) != bool(options.etcd_password):
        raise UsageError("--etcd-username and --etcd-password go together (FLANNELD_ETCD_PASSWORD keeps it from ps)")
    endpoints = [word for word in (word.strip() for word in options.etcd_endpoints.split(",")) if word]
    if not endpoints:
        raise UsageError("--etcd-endpoints is empty, expected http://host:port or https://host:port, a comma list")
    if any("@" in endpoint for endpoint in endpoints):
        raise UsageError("--etcd-endpoints holds a user or password: give them as --etcd-username, --etcd-password")
    from pyflannel.store.etcd.store import etcd_store
    from pyflannel.store.etcd.transport import TlsFiles

    return etcd_store(
        endpoints, options.etcd_prefix, TlsFiles(ca, cert, key), options.etcd_username, options.etcd_password
    )
