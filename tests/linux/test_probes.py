from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from wirecap.linux import capabilities, probes
from wirecap.linux.probes import XdpFeature


def test_release_is_the_kernels():
    """The version is that of uname -r."""
    assert platform.release().startswith(".".join(map(str, probes.release())))


@pytest.mark.parametrize(
    ("release", "good", "essential"),
    [
        ("5.10.0-28-amd64", False, True),
        ("5.15.0", None, False),
        ("6.1.0-9-amd64", True, False),
        ("7.0-rc1", True, False),
    ],
)
def test_kernel_by_version(monkeypatch, release, good, essential):
    """A kernel before 5.11 rules an AF_XDP capture out; one before 6.1 timestamps less directly."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "h", release, "v", "x86_64")))
    found = probes.check_kernel()
    assert (found.good, found.essential) == (good, essential)
    assert bool(found.advice) == (good is not True)


def test_capabilities_agree_with_another_reader():
    """The effective capabilities are those that capsh decodes."""
    capsh = shutil.which("capsh") or shutil.which("capsh", path="/usr/sbin:/sbin")
    if not capsh:
        pytest.skip("needs capsh")
    status = Path("/proc/self/status").read_text()
    bits = status.split("CapEff:")[1].split()[0]
    decoded = subprocess.run([capsh, f"--decode={bits}"], capture_output=True, text=True, check=True).stdout
    for name in capabilities.BITS:
        assert (name in capabilities.effective()) == (name.lower() in decoded)


@pytest.mark.parametrize(
    ("held", "good"),
    [
        ({"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"}, True),
        ({"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN"}, True),
        ({"CAP_NET_ADMIN", "CAP_NET_RAW"}, False),
        (set(), False),
    ],
)
def test_privileges_by_capability(monkeypatch, held, good):
    """CAP_SYS_ADMIN stands for CAP_BPF; what is missing is named."""
    monkeypatch.setattr(capabilities, "effective", lambda: frozenset(held))
    found = probes.check_privileges()
    assert found.good is good
    if not good:
        assert "CAP_BPF" in found.found


def test_setcap_comes_with_its_warning():
    """The hint that grants the interpreter capabilities says who gets them, too."""
    hint = capabilities.hint(capabilities.PACKET)
    assert "setcap cap_net_raw=ep" in hint
    assert "every program that this interpreter runs" in hint


def test_memory_is_not_more_than_there_is():
    """The memory that can be had is positive and less than the machine's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < probes.available_memory_bytes() <= total
    assert probes.check_memory(2 * total).good is False


@pytest.mark.parametrize(
    ("line", "folder", "limit", "used"),
    [
        ("0::/a/b", "a", "memory.max", "memory.current"),
        ("8:memory:/a/b", "memory/a/b", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("8:cpu,memory:/a/b", "memory/a", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_what_a_cgroup_allows(tmp_path: Path, line: str, folder: str, limit: str, used: str) -> None:
    """The limits of both versions count, those of the groups above too."""
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / limit).write_text("5000\n")
    (tmp_path / folder / used).write_text("1200\n")
    (tmp_path / "mine").write_text(f"3:pids:/x\n{line}\n")
    assert probes._cgroup_rooms(tmp_path, tmp_path / "mine") == [3800]


def test_refused_attempts_are_explained():
    """An attempt that is not permitted, and one that the kernel does not know, have different advice."""

    def refuse(code):
        def attempt():
            raise OSError(code, os.strerror(code))

        return attempt

    not_permitted = probes._tried("x", refuse(1), "build it in")
    unknown = probes._tried("x", refuse(97), "build it in")
    assert (not_permitted.good, unknown.good) == (False, False)
    assert "CAP_BPF" in not_permitted.advice
    assert unknown.advice == "build it in"


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (XdpFeature(0), "generic"),
        (XdpFeature.BASIC, "generic"),
        (XdpFeature.BASIC | XdpFeature.REDIRECT, "native"),
        (XdpFeature.BASIC | XdpFeature.REDIRECT | XdpFeature.ZERO_COPY, "native, zero-copy"),
    ],
)
def test_features_in_words(features, words):
    """Without redirect there is no native AF_XDP; zero-copy is said where the driver has it."""
    assert probes.describe_xdp_features(features) == words


@pytest.mark.live
def test_veth_is_native(testbed):
    """The kernel says of a veth that it has native XDP, without attaching anything."""
    from wirecap.linux import netlink, netns

    bed = testbed(queues=2)
    features = netns.call(bed.name, probes.xdp_features)
    if features is None:
        pytest.skip("the kernel has no netdev netlink family (6.3)")
    index = netns.call(bed.name, netlink.interface, bed.nics[0].inside).index
    assert probes.describe_xdp_features(features[index]) == "native"
