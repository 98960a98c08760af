"""This node's place in the underlay, followed while it changes: addresses, MTU, routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from pyflannel.model.errors import ConfigError
from pyflannel.model.node import Node
from pyflannel.node.facts import Facts

log = logging.getLogger(__name__)

QUIET_S = 0.05  # Ours to tune: a DHCP renewal or a link flap is a burst of notifications; act once, after it
