"""Tests that need root say so, and skip loudly without it; in CI nothing may skip for want of it."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# No test fails by the time that it takes, nor today if it passed yesterday; `--hypothesis-profile=explore` looks further.
settings.register_profile("pyflannel", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("pyflannel")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    if os.environ.get("CI") == "true":
        raise pytest.UsageError("CI must run as root: tests in network namespaces may not be skipped there")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: run `sudo make test`"))
