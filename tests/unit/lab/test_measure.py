"""What ping prints, counted."""

from __future__ import annotations

import pytest

from pyflannel.lab.measure import count_losses, median


def output(answered: list[int], sent: int, others: str = "") -> str:
    lines = [f"64 bytes from 10.244.1.2: icmp_seq={number} ttl=62 time=0.14 ms" for number in answered]
    return "\n".join(
        [
            "PING 10.244.1.2 (10.244.1.2) 56(84) bytes of data.",
            *lines,
            others,
            "",
            "--- 10.244.1.2 ping statistics ---",
            f"{sent} packets transmitted, {len(answered)} received, 0% packet loss, time 12ms",
        ]
    )


UNREACHABLE = "From 10.244.1.1 icmp_seq=3 Destination Host Unreachable"


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        (output([1, 2, 3], 3), (3, 0)),
        (output([1, 2], 3), (2, 0)),  # the last was on its way
        (output([1, 3], 3), (3, 1)),  # one in the middle is a loss, if only one
        (output([1, 2], 4), (3, 1)),  # of two at the end, one is
        (output([1, 3, 4], 5), (4, 1)),
        (output([1, 2, 4], 4, UNREACHABLE), (4, 1)),
        (output([2, 1, 3, 3], 3), (3, 0)),  # late and twice are answers
        (output([], 3), (2, 2)),
        (output([], 1), (0, 0)),
        ("ping: connect: Network is unreachable", (0, 0)),
    ],
)
def test_losses(text: str, counted: tuple[int, int]) -> None:
    assert count_losses(text) == counted


def test_median() -> None:
    assert [median(values) for values in ([3.0], [1.0, 9.0, 2.0], [4.0, 1.0])] == [3.0, 2.0, 4.0]
