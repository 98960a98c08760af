"""This node's place in the underlay, followed while it changes: addresses, MTU, routes."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

QUIET_S = 0.05  # Ours to tune: a DHCP renewal or a link flap is a burst of notifications; act once, after it
