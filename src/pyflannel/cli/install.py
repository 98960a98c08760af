"""flannelctl install-cni: the CNI plugin and its conflist on the host, each whole or not at all.

Rule 1: a reader, a crash or a full disk never meets half a file under its final name: a temporary file in the same
folder is written, synced, read back, and only then renamed.
Rule 2: a conflist that doesn't name flannel is somebody else's and stays.
Rule 3: what is right already isn't touched, so that a runtime that watches the folder doesn't load it anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from pyflannel.model.errors import FlannelError

PLUGIN_MODE, CONF_MODE = 0o755, 0o644
PLUGIN = "/flannel"  # where the image keeps it, as flannel's CNI image does
CONF = "/etc/kube-flannel/cni-conf.json"  # the manifest's ConfigMap


class InstallError(FlannelError):
    """A file could not be put in place: names it, and the way out. What was there before is there still."""


def install_cni(
    plugin: Annotated[str, typer.Option(help="The plugin's binary to copy.")] = PLUGIN,
    bin_dir: Annotated[str, typer.Option(help="The host's folder of CNI plugins.")] = "/opt/cni/bin",
    conf: Annotated[str, typer.Option(help="The conflist to copy.")] = CONF,
    conf_dir: Annotated[str, typer.Option(help="The host's folder of CNI configs.")] = "/etc/cni/net.d",
    conf_name: Annotated[str, typer.Option(help="The conflist's name there.")] = "10-flannel.conflist",
    only: Annotated[str, typer.Option(help="plugin or conf: just this one.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a conflist that isn't flannel's.")] = False,
) -> None:
    """Put the CNI plugin, then the conflist, in place on this host: whole, or not at all."""
    if only not in ("", "plugin", "conf"):
        raise typer.BadParameter(f'"{only}" is neither plugin nor conf', param_hint="--only")
    if "/" in conf_name or not conf_name.endswith((".conflist", ".conf")):
        raise typer.BadParameter(f'"{conf_name}" is no file name ending in .conflist', param_hint="--conf-name")
    if only != "conf":
        print(put(_read(Path(plugin), "give the plugin by --plugin"), Path(bin_dir, "flannel"), PLUGIN_MODE))
    if only != "plugin":  # last: a runtime takes the conflist as "the network is there"
        content = _read(Path(conf), "is the ConfigMap mounted there?")
        print(put_conflist(content, conf, Path(conf_dir, conf_name), force=force))


def put_conflist(content: bytes, source: str, target: Path, *, force: bool = False) -> str:
    """Like `put`; refuses a *content* (of *source*) that is no flannel conflist, and a *target* of another network.

    Raises InstallError.
    """
    if not names_flannel(content):
        raise InstallError(f"{source} is no CNI config with a plugin of type flannel: mend cni-conf.json")
    try:
        there = target.read_bytes()
    except FileNotFoundError:
        there = b""
    except OSError as error:
        raise InstallError(f"{target} can't be read: {error.strerror}") from None
    # What doesn't parse is what an interrupted copy left: no runtime can use it, so nothing is lost.
    if not force and names_flannel(there) is False:
        raise InstallError(f"{target} configures another network: move it away, or give --force or another --conf-name")
    return put(content, target, CONF_MODE)


def names_flannel(text: bytes) -> bool | None:
    """Is this a CNI config (CNI spec 1.0, section 1) with a plugin of type flannel? None: it is no config at all."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    plugins = found.get("plugins", [found])
    if not isinstance(plugins, list):
        return None
    return any(isinstance(plugin, dict) and plugin.get("type") == "flannel" for plugin in plugins)


def put(content: bytes, target: Path, mode: int) -> str:
    """Make *target* hold *content*, with *mode*; says on one line what was done. Raises InstallError."""
    try:
        if _is(target, content, mode):
            return f"{target}: as it should be"
        _replace(target, content, mode)
    except FileNotFoundError:
        raise InstallError(
            f"{target.parent} is not there: make it, or give the folder that the container runtime reads"
        ) from None
    except OSError as error:
        raise InstallError(f"{target} was not replaced: {error.strerror or error}") from None
    return f"{target}: installed, {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()[:12]}"


def _read(source: Path, way_out: str) -> bytes:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise InstallError(f"{source} can't be read ({error.strerror}): {way_out}") from None
    if not content:
        raise InstallError(f"{source} is empty: {way_out}")
    return content


def _replace(target: Path, content: bytes, mode: int) -> None:
    # Always of one name, so that a killed run leaves at most one, which the next run uses; no runtime loads a .new.
    path = target.with_name(f".{target.name}.new")
    with _locked(path) as file:
        file.truncate(0)
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)  # whatever the umask
        os.fsync(file.fileno())
        file.seek(0)
        if file.read() != content:
            raise InstallError(f"{target} was not replaced: its copy reads differently; is the disk sound?")
        path.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # else a power cut may bring the old file back
    finally:
        os.close(folder)


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The file *path*, made if need be, with nobody else in it. Removed if the body fails."""
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(number, "w+b") as file:
            fcntl.flock(number, fcntl.LOCK_EX)
            if not _same(path, number):
                continue  # the run that held the lock has renamed it: it is the target now
            try:
                yield file
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return


def _same(path: Path, number: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(number))
    except FileNotFoundError:
        return False


def _is(target: Path, content: bytes, mode: int) -> bool:
    try:
        found = target.lstat()
        return stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == mode and target.read_bytes() == content
    except FileNotFoundError:
        return False
