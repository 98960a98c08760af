"""The difference between what should be and what is, as a value."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Mapping
from typing import TypeVar

from pyflannel.model.rows import Row
from pyflannel.table.contract import Change

R = TypeVar("R", bound=Row)


def diff(
    desired: Mapping[Hashable, R], actual: Mapping[Hashable, R], keys: Iterable[Hashable] | None = None
) -> Change[R]:
    """The smallest change that turns *actual* (only rows that are ours) into *desired*, both by key.

    With *keys*, only those are compared: an event costs what it touches, not what the table holds.
    """
    remove: list[R] = []
    create: list[R] = []
    replace: list[R] = []
    for key in keys if keys is not None else {**actual, **desired}:
        want, have = desired.get(key), actual.get(key)
        if want is None:
            if have is not None:
                remove.append(have)
        elif have is None:
            create.append(want)
        elif have != want:
            replace.append(want)
    return Change(tuple(remove), tuple(create), tuple(replace))


def without(change: Change[R], keys: Container[Hashable]) -> Change[R]:
    """*change* less the rows under *keys*."""
    return Change(
        tuple(row for row in change.remove if row.key not in keys),
        tuple(row for row in change.create if row.key not in keys),
        tuple(row for row in change.replace if row.key not in keys),
    )
