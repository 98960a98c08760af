"""The `flannel` CNI plugin with Debian's real delegates, in namespaces of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.cni import DEBIANS, Answer, Host, left, plugin, speaking
from support.netns import Netns, namespace

pytestmark = pytest.mark.root


def addresses(netns: Netns, device: str) -> set[str]:
    (link,) = netns.json(f"ip -j addr show dev {device}")
    return {f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"] if each["scope"] == "global"}


def test_it_is_static() -> None:
    assert "statically linked" in subprocess.run(["ldd", plugin()], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_add_check_del(host: Host, pod: Netns, version: str) -> None:
    host.config["cniVersion"] = version
    done = host("ADD", netns=pod.name)
    assert done.ok, done.text
    assert done.stderr == "", "flannel's plugin dumps its config there"
    assert done.json["cniVersion"] == version
    (ip,) = done.json["ips"]
    assert (ip["address"], ip["gateway"]) == ("10.5.72.2/24", "10.5.72.1")
    assert {route["dst"] for route in done.json["routes"]} == {"10.5.0.0/16", "0.0.0.0/0"}
    assert addresses(pod, "eth0") == {"10.5.72.2/24"}
    assert addresses(host.netns, "cni0") == {"10.5.72.1/24"}
    assert host.netns.json("ip -j link show dev cni0")[0]["mtu"] == 1450
    pod("ping -c1 -W2 10.5.72.1")
    if version != "0.3.1":
        assert host("CHECK", netns=pod.name, config={"prevResult": done.json}) == Answer(0, "", "")
        assert "c2 has no eth0" in host("CHECK", "c2", pod.name, config={"prevResult": done.json}).json["msg"]
    for _ in range(2):  # the second finds nothing, which is fine
        assert host("DEL", netns=pod.name) == Answer(0, "", "")
    assert left(host) == []


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_dual_stack_and_what_is_passed_on(host: Host, pod: Netns, version: str) -> None:
    host.config["cniVersion"] = version
    host.lease(subnet6="fd00:5:0:72::1/64")
    delegate: dict[str, Any] = {"bridge": "br7", "isDefaultGateway": True, "mtu": 1400}
    runtime = {"mac": "0a:00:00:00:00:07"}
    done = host("ADD", netns=pod.name, config={"delegate": delegate, "runtimeConfig": runtime})
    assert done.ok, done.text
    assert [ip["address"] for ip in done.json["ips"]] == ["10.5.72.2/24", "fd00:5:0:72::2/64"]
    assert host.netns.json("ip -j link show dev br7")[0]["mtu"] == 1400
    assert pod.json("ip -j link show dev eth0")[0]["address"] == runtime["mac"], "the delegate gets runtimeConfig"
    saved = json.loads((host.data_dir / "c1").read_text())
    assert saved["runtimeConfig"] == {"mac": "0a:00:00:00:00:07"}
    assert (saved["ipMasq"], saved["name"], saved["type"]) == (False, "cbr0", "bridge")
    assert (host.data_dir / "c1").stat().st_mode & 0o777 == 0o600
    assert host("DEL", netns=pod.name).ok


def test_two_interfaces_of_one_container(host: Host, pod: Netns) -> None:
    assert host("ADD", netns=pod.name).ok
    assert host("ADD", netns=pod.name, ifname="net1", config={"delegate": {"bridge": "cni0"}}).ok
    assert host("DEL", netns=pod.name, ifname="net1").ok
    assert addresses(pod, "eth0") == {"10.5.72.2/24"}, "its neighbour's end is not its own"
    assert host("DEL", netns=pod.name).ok
    assert left(host) == []


def test_del_needs_no_daemon_and_keeps_what_failed(host: Host, pod: Netns) -> None:
    assert host("ADD", netns=pod.name).ok
    host.subnet_file.unlink()
    lost = host("DEL", netns=pod.name, CNI_PATH="/nowhere")
    assert not lost.ok
    assert "isn't in CNI_PATH (/nowhere)" in lost.json["msg"]
    assert left(host), "flannel's plugin forgets its state here, and leaks the address"
    assert host("DEL", netns=pod.name).ok
    assert left(host) == []


@pytest.mark.parametrize("half", ["", '{"cniVersion":"0.3.1","hairpinMo', "[]"])
def test_half_a_state_file_is_no_reason_to_keep_a_pod_for_ever(host: Host, pod: Netns, half: str) -> None:
    """flannel's plugin writes in place; a power cut leaves a file without content."""
    assert host("ADD", netns=pod.name).ok
    (host.data_dir / "c1").write_text(half)
    assert host("DEL", netns=pod.name) == Answer(0, "", "")
    assert left(host) == []


def test_a_state_in_a_version_that_the_delegate_doesnt_know(host: Host, pod: Netns) -> None:
    assert host("ADD", netns=pod.name, config={"cniVersion": "1.1.0"}).ok
    assert json.loads((host.data_dir / "c1").read_text())["cniVersion"] == "1.1.0", "Debian's bridge ends at 1.0.0"
    assert host("DEL", netns=pod.name, config={"cniVersion": "1.1.0"}) == Answer(0, "", "")
    assert left(host) == []


def test_del_leaves_the_hosts_own_devices(host: Host, pod: Netns) -> None:
    """Where CNI_NETNS is /proc/PID/ns/net, and PID is one of the host's processes by now."""
    assert host("ADD", netns=pod.name).ok
    host.netns("ip link add eth0 type bridge")
    pod("ip link del eth0")
    assert host("DEL", netns=host.netns.name) == Answer(0, "", "")
    assert host.netns.json("ip -j link show dev eth0")
    assert left(host) == []


def test_what_flannels_plugin_left_is_taken_down(host: Host, pod: Netns) -> None:
    assert host("ADD", netns=pod.name, ifname="net1").ok
    (host.data_dir / "c1@net1").rename(host.data_dir / "c1")  # flannel's name for any interface
    assert host("DEL", netns=pod.name, ifname="net1").ok
    assert left(host) == ["c1"], "nobody can say whose it is: a GC takes it"
    assert host("GC", config={"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}).ok
    assert left(host) == []


def test_gc_takes_what_isnt_valid(host: Host) -> None:
    with namespace("pod") as one, namespace("pod") as two:
        assert host("ADD", "c1", one.name).ok
        assert host("ADD", "c2", two.name).ok
        assert host("ADD", "c3", two.name, "net1", config={"name": "other"}).ok
    valid = [{"containerID": "c2", "ifname": "eth0"}]
    assert host("GC", config={"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}).ok
    assert {name for name in left(host) if name[0] == "c"} == {"c2", "c3@net1"}, "other networks' are not ours"
    assert "10.5.72.2" not in left(host)
    refused = host("GC", config={"cniVersion": "1.1.0"})
    assert refused.json["code"] == 7, "nothing goes because a list was forgotten"
    assert "c2" in left(host)
    assert host("GC", config={"cniVersion": "1.1.0", "cni.dev/valid-attachments": None}).ok
    assert host("DEL", "c3", ifname="net1", config={"name": "other"}).ok
    assert left(host) == []


def test_status(host: Host) -> None:
    new = {"cniVersion": "1.1.0"}
    assert host("STATUS", config=new) == Answer(0, "", "")
    assert host("STATUS", config=new, CNI_PATH="/nowhere").json["code"] == 50
    host.subnet_file.unlink()
    answer = host("STATUS", config=new)
    assert (answer.code, answer.json["code"]) == (1, 50)


def test_status_and_gc_are_the_delegates_too(host: Host, tmp_path: Path) -> None:
    log, path = speaking(tmp_path, "")
    new: dict[str, Any] = {"cniVersion": "1.1.0"}
    assert host("STATUS", config=new, CNI_PATH=path) == Answer(0, "", "")
    assert log.read_text().endswith("STATUS\n")
    valid = [{"containerID": "c9", "ifname": "eth0"}]
    assert host("GC", config={**new, "cni.dev/valid-attachments": valid}, CNI_PATH=path) == Answer(0, "", "")
    told, _, command = log.read_text().removesuffix("\n").rpartition("}")
    assert command == "GC"
    told = "{" + told.partition("STATUS\n{")[2] + "}"
    assert json.loads(told)["cni.dev/valid-attachments"] == valid
    _, path = speaking(tmp_path, """echo '{"code": 50, "msg": "the pool is empty"}'; exit 1""")
    refused = host("STATUS", config=new, CNI_PATH=path)
    assert (refused.code, refused.json) == (1, {"code": 50, "msg": "the pool is empty"})
    refused = host("GC", config={**new, "cni.dev/valid-attachments": valid}, CNI_PATH=path)
    assert "the pool is empty" in refused.json["msg"]


def test_the_cause_is_the_daemons_own(host: Host, pod: Netns) -> None:
    host.subnet_file.unlink()
    absent = host("ADD", netns=pod.name)
    assert absent.json["code"] == 11
    assert "flanneld isn't running" in absent.json["msg"]
    assert str(host.subnet_file) in absent.json["details"]
    problem = "node n1 has no spec.podCIDR yet: the controller manager gives one if it runs with --allocate-node-cidrs"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.subnet_file.with_suffix(".sock")))
        listener.listen()

        def tell() -> None:
            for text in (json.dumps({"problems": [problem]}), None):
                peer, _ = listener.accept()
                with peer:
                    if text is not None:
                        peer.sendall(text.encode())
                    else:
                        peer.recv(1)  # says nothing, until the other side has had enough

        thread = threading.Thread(target=tell)
        thread.start()
        assert host("ADD", netns=pod.name).json["msg"] == f"the network isn't ready on this node: flanneld: {problem}"
        assert "flanneld doesn't answer within 200 ms" in host("ADD", netns=pod.name).json["msg"]
        thread.join()
    host.subnet_file.with_suffix(".error").write_text("no interface has 10.1.2.3\n")
    assert host("ADD", netns=pod.name).json["msg"].endswith("flanneld ended: no interface has 10.1.2.3")
    assert left(host) == []


def test_a_leftover_bridge(host: Host, pod: Netns) -> None:
    host.netns("ip link add cni0 type bridge")
    host.netns("ip addr add 10.99.1.1/24 dev cni0")
    host.netns("ip link set cni0 up")
    refused = host("ADD", netns=pod.name)
    assert "cni0 has the address 10.99.1.1/24, but this node's subnet is 10.5.72.0/24" in refused.json["msg"]
    assert "ip link delete cni0" in refused.json["details"]
    assert "mendBridge" in refused.json["details"]
    assert left(host) == []
    assert host("STATUS", config={"cniVersion": "1.1.0"}).json["code"] == 50
    done = host("ADD", netns=pod.name, config={"mendBridge": True})
    assert done.ok, done.text
    assert addresses(host.netns, "cni0") == {"10.5.72.1/24"}
    assert host("DEL", netns=pod.name).ok
    assert host("ADD", netns=pod.name).ok, "mended once is mended"


def test_the_hosts_own_namespace_is_refused(host: Host) -> None:
    answer = host("ADD", netns=host.netns.name)
    assert (answer.code, answer.json["code"]) == (1, 8)
    assert left(host) == []


def test_a_delegates_error_is_its_own(host: Host, pod: Netns) -> None:
    host.lease("10.5.72.1/30")
    with namespace("pod") as other:
        assert host("ADD", netns=pod.name).ok
        full = host("ADD", "c2", other.name)
        assert "no IP addresses available" in full.json["msg"]
        assert host("DEL", "c2", other.name).ok
        assert host("DEL", netns=pod.name).ok
    assert left(host) == []


@pytest.mark.parametrize(
    ("command", "stdin", "environment", "code", "words"),
    [
        ("ADD", "", {}, 6, "no JSON"),
        ("ADD", "null", {}, 6, "no JSON object"),
        ("ADD", '{"name": "x y"}', {}, 7, 'name is "x y"'),
        ("ADD", None, {"CNI_CONTAINERID": "../../etc/passwd"}, 4, "CNI_CONTAINERID"),
        ("ADD", None, {"CNI_IFNAME": "far-too-long-name"}, 4, "CNI_IFNAME"),
        ("DEL", None, {"CNI_PATH": ""}, 4, "[CNI_PATH] missing"),
        ("MAKE", None, {}, 4, "CNI_COMMAND"),
        ("STATUS", None, {}, 1, "1.1.0 or later for STATUS"),
        ("ADD", '{"cniVersion": "2.0.0", "name": "a"}', {}, 1, '"2.0.0", expected one of 0.1.0'),
    ],
)
def test_bad_input(
    host: Host, pod: Netns, command: str, stdin: str | None, environment: dict[str, str], code: int, words: str
) -> None:
    answer = host(command, netns=pod.name, stdin=stdin, config=None, **environment)
    assert (answer.code, answer.json["code"]) == (1, code)
    assert words in answer.json["msg"]
    assert left(host) == []


def test_a_subnet_env_that_is_wrong(host: Host, pod: Netns) -> None:
    for text, words in (
        ("", "is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET"),
        ("FLANNEL_SUBNET=10.5.72.1\n", 'FLANNEL_SUBNET is "10.5.72.1", expected an IPv4 network'),
    ):
        host.subnet_file.write_text(text)
        answer = host("ADD", netns=pod.name)
        assert words in answer.json["msg"]
    assert left(host) == []


def test_version_and_about(host: Host) -> None:
    answer = host("VERSION", stdin="{}")
    assert answer.json["supportedVersions"] == ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert answer.json["cniVersion"] == "1.1.0"
    about = subprocess.run([plugin()], env={}, capture_output=True, text=True, check=True)
    assert "1.1.0" in about.stderr
    assert about.stdout == ""


def test_two_hundred_at_once(host: Host) -> None:
    names = [f"pfmany-{number}" for number in range(200)]
    batch = "\n".join(f"netns add {name}" for name in names)
    subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
    try:
        with ThreadPoolExecutor(32) as pool:
            added = list(pool.map(lambda name: host("ADD", name, name), names))
            assert [done.text for done in added if not done.ok] == []
            given = {done.json["ips"][0]["address"] for done in added}
            assert len(given) == 200
            assert len(left(host)) == 600
            gone = list(pool.map(lambda name: host("DEL", name, name), names))
        assert [done.text for done in gone if not done.ok] == []
        assert left(host) == []
    finally:
        subprocess.run(["ip", "-batch", "-"], input=batch.replace("netns add", "netns del"), text=True, check=False)


def test_with_portmap_behind(host: Host, pod: Netns) -> None:
    """The conflist's second plugin takes our result."""
    done = host("ADD", netns=pod.name)
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    config = {"cniVersion": "1.0.0", "name": "cbr0", "type": "portmap", "prevResult": done.json, "runtimeConfig": ports}
    behind = subprocess.run(
        ["nsenter", f"--net=/run/netns/{host.netns.name}", f"{DEBIANS}/portmap"],
        env={"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_PATH": DEBIANS,
             "CNI_NETNS": f"/run/netns/{pod.name}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        input=json.dumps(config), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert behind.returncode == 0, behind.stdout
    assert json.loads(behind.stdout)["ips"] == done.json["ips"]
    assert host("DEL", netns=pod.name).ok
