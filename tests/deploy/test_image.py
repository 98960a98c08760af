"""The Dockerfile, as far as it can be read without a registry: what it copies is there, what it links exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from .conftest import DEPLOY, ROOT

TEXT = (DEPLOY / "Dockerfile").read_text()
LINES = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()


def steps() -> list[tuple[str, list[str]]]:
    return [(words[0], words[1:]) for words in (line.split() for line in LINES) if words]


def test_only_steps_that_docker_knows() -> None:
    known = {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "ENTRYPOINT", "ARG"}
    assert {step for step, _ in steps()} == known


def test_what_is_copied_is_there() -> None:
    stages: set[str] = set()
    copied = 0
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    for step, words in steps():
        if step == "FROM" and "AS" in words:
            stages.add(words[words.index("AS") + 1])
        if step != "COPY":
            continue
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] not in ignored, source
            copied += 1
    assert copied > 8


def test_what_is_linked_is_made() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"EXTRAS=\[(\w+)\]'?, or (\w+), (\w+), (\w+)", TEXT)[0]:
        assert extra in project["optional-dependencies"]
    linked = set(re.findall(r"/opt/pyflannel/bin/([\w-]+)", " ".join(LINES))) - {"pip", "python"}
    assert linked == set(project["scripts"]) == {"flanneld", "flannelctl", "mk-docker-opts"}


def test_the_manifests_tag_is_the_versions() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"pyflannel:{version} ." in TEXT
    for path in ("kubernetes/kube-flannel.yml", "helm/flannel/Chart.yaml"):
        assert version in (DEPLOY / path).read_text(), path


def test_install_conf_takes_flannels_words(tmp_path: Path) -> None:
    """As flannel's manifest calls it; flannelctl is the real one."""
    programs = tmp_path / "bin"
    programs.mkdir()

    (programs / "flannelctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m pyflannel.cli.flannelctl "$@"\n')
    (programs / "flannelctl").chmod(0o755)
    (tmp_path / "cni-conf.json").write_text('{"name": "cbr0", "plugins": [{"type": "flannel"}]}')
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}

    def call(*words: str) -> int:
        return subprocess.run([str(DEPLOY / "docker/install-conf"), *words], env=environment, check=False).returncode

    target = tmp_path / "10-flannel.conflist"
    assert call(str(tmp_path / "cni-conf.json"), str(target)) == 0
    assert target.read_text() == (tmp_path / "cni-conf.json").read_text()
    assert call(str(tmp_path / "cni-conf.json")) == 1
