"""What was disturbed by others, when, and when it was put back: the answer to "what happened last night"."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

KEPT = 200  # Ours to tune: entries; a flapping device fills some tens


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Rows of one table found otherwise than we left them. `at` is Unix time, `healed_ms` from notice to mended."""

    at: float
    table: str
    gone: int
    changed: int
    extra: int
    first: str
    healed_ms: float | None

    def __str__(self) -> str:
        counts = ((self.gone, "gone"), (self.changed, "changed"), (self.extra, "not ours to keep"))
        what = ", ".join(f"{count} {word}" for count, word in counts if count)
        end = "not mended yet" if self.healed_ms is None else f"mended in {self.healed_ms:.1f} ms"
        return f"{self.table}: disturbed by others, {what} (first: {self.first}), {end}"


class Journal:
    """The last disturbances, and how many there were in all."""

    def __init__(self) -> None:
        self.entries: deque[Disturbance] = deque(maxlen=KEPT)
        self.total = 0

    def note(self, entry: Disturbance) -> None:
        self.entries.append(entry)
        self.total += 1

    def recent(self, since: float) -> Iterable[Disturbance]:
        """Entries at or after *since* (Unix time)."""
        return (entry for entry in self.entries if entry.at >= since)
