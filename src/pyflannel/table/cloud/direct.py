"""HTTP to a machine's metadata service: never by a proxy, which would tell of its own machine."""

from __future__ import annotations

import urllib.request

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
