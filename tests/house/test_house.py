"""The rules of the house, each with its reason."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflannel.cli.docs import flags_page

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/pyflannel"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))

# Who → may import which floors of ours. Anything else would let data flow back up.
FLOORS: dict[str, set[str]] = {
    "model": {"model"},
    "wire": {"model", "wire"},
    "store": {"model", "wire", "store"},
    "backend": {"model", "wire", "backend"},
    "rules": {"model", "rules"},
    "node": {"model", "wire", "node"},
    "reconcile": {"model", "reconcile", "table.contract"},
    "table": {"model", "wire", "table"},
    # The only places where floors meet.
    "daemon": {"*"},
    "cli": {"*"},
    "lab": {"model", "wire", "store", "table.netns", "lab"},
}
# Who → must not import what → why.
FORBIDDEN: dict[str, dict[str, str]] = {
    "backend": dict.fromkeys(("socket", "subprocess", "asyncio", "os", "pathlib"), "plans don't touch the system"),
    "rules": dict.fromkeys(("socket", "subprocess", "asyncio", "os", "pathlib"), "plans don't touch the system"),
    "model": dict.fromkeys(("socket", "subprocess", "asyncio", "os", "pathlib", "time"), "values do nothing"),
    "wire": dict.fromkeys(("subprocess", "asyncio", "time"), "formats are pure"),
    "daemon": dict.fromkeys(("rich", "typer"), "megabytes at run time"),
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent != SOURCE], ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    floor = path.relative_to(SOURCE).parts[0]
    allowed = FLOORS[floor]
    for name in imports(path):
        own = name.removeprefix("pyflannel.")
        if own != name and "*" not in allowed and own != "__version__":
            assert any(own == other or own.startswith(f"{other}.") for other in allowed), f"{floor} imports {name}"
        why = FORBIDDEN.get(floor, {}).get(name)
        assert why is None, f"{floor} imports {name}: {why}"


def test_grpc_stays_in_its_room() -> None:
    """The daemon must start without etcd's libraries where it doesn't use etcd."""
    users = {
        name_of(path)
        for path in MODULES
        if any(f"{name}.".startswith(("grpclib.", "google.protobuf.")) for name in imports(path))
    }
    assert users == {"store/etcd/transport.py", "store/etcd/client.py"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400, "a module does one thing that its name says"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_everything_public_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_the_flags_page_is_fresh() -> None:
    assert (ROOT / "docs/reference/flags.md").read_text() == flags_page(), "run tools/gen-docs"


def test_nothing_of_a_machine_is_in_the_tree() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    words = ("/wor" + "k/", "/roo" + "t/", "pypi." + "org", "deb.deb" + "ian", "crates." + "io")
    for name in set(tracked) - {"Cargo.lock"}:  # its format names the registry
        text = (ROOT / name).read_text(errors="replace")
        assert not [word for word in words if word in text], name


def test_types_are_shipped() -> None:
    assert (SOURCE / "py.typed").exists()


def test_decisions_are_numbered_and_titled() -> None:
    for path in (ROOT / "docs/decisions").glob("*.md"):
        assert path.read_text().startswith(f"# {path.name[:4]}. "), path.name
