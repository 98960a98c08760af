"""What a fabric is: a cloud network's route tables, reached by the cloud's API.

Calls block (the clouds' SDKs do): they run in threads, one at a time. Each raises a CloudError that says what a person
can do, naming the permission, the quota, or the field.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from pyflannel.model.errors import FlannelError
from pyflannel.model.fields import Fields
from pyflannel.model.node import CloudPlace, IPAddress, IPNetwork

log = logging.getLogger(__name__)

T = TypeVar("T")


class CloudError(FlannelError):
    """The cloud did not do it, and why. Trying again later may help: it was out of reach, or throttles us."""


class CloudDenied(CloudError):
    """No credentials, or they lack a permission; the message names it."""


class CloudFull(CloudError):
    """A quota is reached; the message names it, and how it is raised."""


class RouteTaken(CloudError):
    """Another route to this destination is there already."""


class NotInCloud(CloudError):
    """This machine is none of this cloud's: no metadata service answers."""


@dataclass(frozen=True, slots=True)
class FabricRoute:
    """A route as the cloud has it.

    `next_hop` is the cloud's name of where it leads, `addresses` are those of the machine there: private, public, of
    both families; none if it's no machine, or gone. A `blackhole` leads to a machine that is stopped or gone, a
    `pending` route is being made. `marked`: its name or description says that flannel, or we, made it (no such thing
    on AWS). `handle` is the cloud's name of the route itself.
    """

    table: str
    destination: IPNetwork
    next_hop: str
    addresses: frozenset[IPAddress] = frozenset()
    state: Literal["active", "blackhole", "pending"] = "active"
    marked: bool = False
    handle: str = ""

    @property
    def key(self) -> tuple[str, IPNetwork]:
        return (self.table, self.destination)

    def __str__(self) -> str:
        state = "" if self.state == "active" else f" ({self.state})"
        return f"{self.destination} via {self.next_hop or 'nothing'} table {self.table}{state}"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold for this node to take part: does it, what was seen, and the cure if it doesn't.

    `holds` None: could not be found out, or is close to trouble; a warning.
    """

    name: str
    holds: bool | None
    seen: str
    cure: str = ""


class Fabric(Protocol):
    """One cloud, from one machine of it. `locate` goes first."""

    @property
    def name(self) -> str:
        """The config's Backend.Type."""
        ...

    def locate(self, addresses: Sequence[IPAddress]) -> CloudPlace:
        """Where this machine, whose underlay bears *addresses*, stands. From the metadata service, the API, and the
        config. Raises NotInCloud, CloudError."""
        ...

    def forwards(self, place: CloudPlace) -> bool:
        """Does the cloud let this machine forward?"""
        ...

    def let_forward(self, place: CloudPlace) -> None:
        """Make it so."""
        ...

    def routes(self, place: CloudPlace, networks: Sequence[IPNetwork]) -> list[FabricRoute]:
        """The routes of all of *place*'s tables that lie within *networks*: every page."""
        ...

    def create(self, place: CloudPlace, table: str, destination: IPNetwork) -> None:
        """A route to this machine, marked as ours where there is room for a mark; there when this returns. Never
        overwrites: raises RouteTaken."""
        ...

    def replace(self, place: CloudPlace, route: FabricRoute) -> None:
        """Let *route* lead to this machine; without an interruption where the cloud can do that."""
        ...

    def delete(self, place: CloudPlace, route: FabricRoute) -> None:
        """Remove *route*. One that is gone already is no error."""
        ...

    def checks(self, place: CloudPlace) -> list[Check]:
        """Identity, permissions, quotas, forwarding: what could keep this node from taking part. Changes nothing."""
        ...


Opener = Callable[[Fields], Fabric]
"""Makes a fabric from the config's Backend object. Raises ConfigError: a field is wrong, or the SDK isn't installed."""


async def in_thread(call: Callable[[], T]) -> T:
    """What *call* gives, made in a thread that nobody waits for if we are cancelled (an SDK may retry for minutes).
    Raises FlannelError alone: what an SDK raises beside its own errors must not end the daemon."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # a T, where there is no error

    def work() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = call()
        except FlannelError as caught:
            error = caught
        except Exception as caught:
            log.debug("the cloud's SDK failed", exc_info=True)
            error = CloudError(f"the cloud's SDK failed: {type(caught).__name__}: {caught}")
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, daemon=True, name="cloud").start()
    return await future
