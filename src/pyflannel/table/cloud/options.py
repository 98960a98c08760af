"""Fields of the `Backend` object that several clouds have."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pyflannel.model.errors import ConfigError
from pyflannel.model.fields import Fields

log = logging.getLogger(__name__)


def route_tables(fields: Fields) -> tuple[str, ...]:
    """RouteTableID: a string, or a list of them; () if it's left out. Raises ConfigError."""
    try:
        names = fields.texts("RouteTableID")
    except ConfigError:
        try:
            name = fields.text("RouteTableID", "")
        except ConfigError as error:
            raise fields.error("RouteTableID", error.value, 'a string or a list of strings, as ["rtb-1"]') from None
        names = (name,) if name else ()
    if not all(names):
        raise fields.error("RouteTableID", "", "the id of a route table, or leave it out")
    return tuple(dict.fromkeys(names))


def access_keys(fields: Fields, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """flannel's AccessKeyID and AccessKeySecret, else its ACCESS_KEY_ID and ACCESS_KEY_SECRET; None: the SDK's chain.
    Raises ConfigError."""
    ident, secret = fields.text("AccessKeyID", ""), fields.text("AccessKeySecret", "")
    if bool(ident) != bool(secret):
        name = "AccessKeySecret" if ident else "AccessKeyID"
        raise fields.error(name, None, "both AccessKeyID and AccessKeySecret, or neither (a role is safer)")
    if ident:
        log.warning(
            "the network config holds a secret key: whoever reads the store has it; a role of the machine is safer"
        )
        return ident, secret
    ident, secret = environment.get("ACCESS_KEY_ID", ""), environment.get("ACCESS_KEY_SECRET", "")
    return (ident, secret) if ident and secret else None
