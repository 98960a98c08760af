"""Which clouds there are, and the module of each."""

from __future__ import annotations

from importlib import import_module

from pyflannel.lab.cloud.server import FrontEnd
from pyflannel.lab.shell import LabError

MODULES = {"aws-vpc": "aws", "gce": "gce", "ali-vpc": "ali", "tencent-vpc": "tencent"}
API_PORT = 8775
# Where a machine finds its metadata service: AWS and Google, Alibaba, Tencent.
METADATA = ("169.254.169.254", "100.100.100.200", "169.254.0.23")


def front(cloud: str, machines: list[tuple[str, str, str]]) -> FrontEnd:
    """A cloud with *machines*, each a name, an IPv4 and an IPv6 address. Raises LabError."""
    try:
        module = import_module(f"pyflannel.lab.cloud.{MODULES[cloud]}")
    except ImportError as error:
        raise LabError(f"the emulated {cloud} needs {error.name}: pip install 'pyflannel[lab]'") from None
    made: FrontEnd = module.build_front(machines)
    return made
