"""A cloud whose SDK isn't installed: one error, which names the extra; and none is loaded where it isn't needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pyflannel.lab.cloud import ali, tencent
from pyflannel.lab.cloud.server import Emulator
from pyflannel.model.errors import ConfigError
from pyflannel.model.network import NetworkConfig
from pyflannel.table.cloud import ali_metadata
from pyflannel.table.cloud.registry import open_fabric
from pyflannel.table.cloud.tencent import Tencent

SDKS = {
    "aws-vpc": ("botocore", "aws"),
    "gce": ("google.auth", "gce"),
    "ali-vpc": ("alibabacloud_tea_openapi", "ali"),
    "tencent-vpc": ("tencentcloud.common.common_client", "tencent"),
}


@pytest.mark.parametrize("kind", SDKS)
def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    module, extra = SDKS[kind]
    monkeypatch.setitem(sys.modules, module, None)
    config = NetworkConfig.parse(f'{{"Network": "10.5.0.0/16", "Backend": {{"Type": "{kind}"}}}}')
    with pytest.raises(ConfigError, match=rf"Backend\.Type is \"{kind}\", .*pip install 'pyflannel\[{extra}\]'"):
        open_fabric(config)


def test_metadata_is_never_asked_by_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [("n1", "127.0.0.11", "::1")]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    for front, ask in (
        (ali.build_front(machines), ali_metadata.identity),
        (tencent.build_front(machines), lambda: Tencent((), None)._metadata("instance-id")),
    ):
        with Emulator(front, [("127.0.0.1", 0)], guest="n1") as server, monkeypatch.context() as patch:
            for name, value in front.environment(server.url, server.url).items():
                patch.setenv(name, value)
            assert ask()


def test_no_sdk_is_loaded_for_another_backend() -> None:
    program = (
        "import sys, pyflannel.daemon.flanneld\n"
        "from pyflannel.model.network import NetworkConfig\n"
        "from pyflannel.table.cloud.registry import open_fabric\n"
        'assert open_fabric(NetworkConfig.parse(\'{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}\')) is None\n'
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('botocore', 'google', 'Tea', 'darabonba', 'tencentcloud', 'requests', 'moto')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
