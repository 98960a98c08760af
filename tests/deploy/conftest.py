"""What deploy/ gives when it's rendered: by kubectl's kustomize, by a real helm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@dataclass(frozen=True)
class Rendered:
    """A set of Kubernetes objects."""

    objects: tuple[dict[str, Any], ...]

    @classmethod
    def parse(cls, text: str) -> Rendered:
        return cls(tuple(item for item in yaml.safe_load_all(text) if item))

    def one(self, kind: str) -> dict[str, Any]:
        """The only object of *kind*."""
        (found,) = (item for item in self.objects if item["kind"] == kind)
        return found

    @property
    def pod(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.one("DaemonSet")["spec"]["template"]["spec"]
        return spec

    @property
    def daemon(self) -> dict[str, Any]:
        """The container that runs flanneld."""
        (found,) = (item for item in self.pod["containers"] if item["name"] == "kube-flannel")
        return dict(found)

    @property
    def words(self) -> list[str]:
        """flanneld's arguments."""
        words: list[str] = [*self.daemon["command"], *self.daemon.get("args", ())]
        return words[1:]

    @property
    def net_conf(self) -> dict[str, Any]:
        return dict(json.loads(self.one("ConfigMap")["data"]["net-conf.json"]))


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def missing(what: str) -> NoReturn:
    """Skip, but in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def kustomized() -> Callable[[str], Rendered]:
    """What `kubectl apply -k` would send for a folder of deploy/."""
    if not shutil.which("kubectl"):
        missing("needs kubectl: https://kubernetes.io/docs/tasks/tools/")
    return lambda folder: Rendered.parse(run("kubectl", "kustomize", DEPLOY / folder))


Helm = Callable[..., str]


@pytest.fixture(scope="session")
def helm() -> Helm:
    """A real helm; built the first time."""
    if not shutil.which("go"):
        missing("needs Go, to build helm: https://go.dev/doc/install")
    program = run(ROOT / "tools/helm-build").strip()
    return lambda *words: run(program, *words)


Chart = Callable[..., Rendered]


@pytest.fixture
def chart(helm: Helm, tmp_path: Path) -> Chart:
    """The chart's objects with these values."""

    def render(**values: Any) -> Rendered:
        path = tmp_path / "values.json"  # JSON is YAML
        path.write_text(json.dumps(values))
        words = ("template", "flannel", str(DEPLOY / "helm/flannel"), "--namespace=kube-flannel", "--values", str(path))
        return Rendered.parse(helm(*words))

    return render
