from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirecap.config.capture import CaptureConfig, PoolConfig, WriteConfig
from wirecap.config.specs import HandlerSpec, QueueSpec
from wirecap.errors import UsageError

ETH1 = QueueSpec("eth1")
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=15).filter(
    lambda s: s not in (".", "..")
)


@pytest.mark.parametrize(
    ("text", "interface", "queues"),
    [
        ("eth1", "eth1", None),
        ("eth1@0-3", "eth1", (0, 1, 2, 3)),
        ("eth1@0,2,5-7", "eth1", (0, 2, 5, 6, 7)),
        ("eth1@3", "eth1", (3,)),
        ("lo", "lo", None),
        ("br-1a2b3c4d5e6f", "br-1a2b3c4d5e6f", None),
    ],
)
def test_queue_spec_forms(text, interface, queues):
    """An interface stands for all its queues; numbers and ranges after @ choose some."""
    assert QueueSpec.parse(text) == QueueSpec(interface, queues)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@1",
        "eth1@",
        "eth1@a",
        "eth1@3-1",
        "eth1@1,1",
        "eth1@0-5,5",
        "eth1@-1",
        "eth1@4096",
        "a/b",
        "a b",
        "a" * 128,
    ],
)
def test_queue_spec_refusals(text):
    """A malformed interface or queue list is refused with what was wrong and a form that works."""
    with pytest.raises(UsageError) as refused:
        QueueSpec.parse(text)
    assert repr(text) in refused.value.message
    assert refused.value.hint


def test_interfaces_with_commas():
    """Several interfaces in one word are told apart."""
    with pytest.raises(UsageError, match="more than one interface") as refused:
        QueueSpec.parse("eth0@0,2,lo@1, eth2")
    assert refused.value.hint == "name each on its own: eth0@0,2 and lo@1 and eth2"


@given(names, st.none() | st.lists(st.integers(0, 200), min_size=1, unique=True))
def test_queue_spec_round_trip(name, queues):
    """What a queue spec prints is read back as the same."""
    spec = QueueSpec(name, None if queues is None else tuple(queues))
    assert QueueSpec.parse(str(spec)) == spec


@given(st.text(max_size=12))
def test_queue_spec_never_crashes(text):
    """Any text is a queue spec or a UsageError."""
    try:
        QueueSpec.parse(text)
        HandlerSpec.parse(text)
    except UsageError:
        pass


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("count", "count", {}),
        ("pkt_handler:x=300", "pkt_handler", {"x": "300"}),
        ("pkt_handler:x=300,rate=38844", "pkt_handler", {"x": "300", "rate": "38844"}),
        ("my.module:dns", "my.module:dns", {}),
        ("my.module:dns:ports=53", "my.module:dns", {"ports": "53"}),
        ("write:path=/tmp/a:b", "write", {"path": "/tmp/a:b"}),
        ("write:path=", "write", {"path": ""}),
    ],
)
def test_handler_spec_forms(text, name, options):
    """A handler is a name or module:object, with key=value options."""
    spec = HandlerSpec.parse(text)
    assert (spec.name, dict(spec.options)) == (name, options)
    assert HandlerSpec.parse(str(spec)) == spec


@pytest.mark.parametrize("text", ["", ":", ":x=1", "a:", "a:1b", "a:x=1,x=2", "a:x=1,y", "m:o:", "m:o:z"])
def test_handler_spec_refusals(text):
    """A malformed handler is refused with the forms that work."""
    with pytest.raises(UsageError) as refused:
        HandlerSpec.parse(text)
    assert refused.value.hint


def test_pool_of_the_paper():
    """Four queues of (256, 100) take 200 MiB: n * R * M * 2 KB."""
    assert PoolConfig(256, 100).bytes(4) == 209_715_200


@pytest.mark.parametrize("pool", [{"M": 0}, {"M": 65_537}, {"R": 1}, {"R": 10**7}, {"cell": 1000}])
def test_pool_ranges(pool):
    """A pool outside the ranges is refused."""
    with pytest.raises(UsageError):
        PoolConfig(**pool)


def test_pool_that_does_not_fit_names_the_numbers():
    """A pool larger than the memory is refused with the product, the memory and the largest R."""
    with pytest.raises(UsageError) as refused:
        PoolConfig(65_536, 70_000).check_memory(4, 23 * 2**30)
    assert "65536 x 70000 x 2048 x 4 = 34.2 TiB" in refused.value.message
    assert "23 GiB" in refused.value.message
    assert refused.value.hint == "the largest R at this M is 46"
    PoolConfig(65_536, 46).check_memory(4, 23 * 2**30)


def test_pool_that_cannot_fit_with_any_R():
    """Where not even two chunks fit, the hint does not offer an R."""
    with pytest.raises(UsageError, match="smaller M and R"):
        PoolConfig(65_536, 100).check_memory(4, 2**20)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "nothing to capture"),
        ({"sources": (ETH1,), "read_file": "a.pcap"}, "an interface and a file at once"),
        ({"read_file": "a.pcap", "engine": "xdp"}, "--engine xdp is for interfaces, and -r reads a file"),
        ({"read_file": "a.pcap", "busy_poll": True}, "--busy-poll is for interfaces, and -r reads a file"),
        ({"sources": (ETH1,), "engine": "dpdk"}, "auto, xdp"),
        ({"sources": (ETH1,), "mode": "fast"}, "basic, advanced"),
        ({"sources": (ETH1,), "xdp_mode": "offload"}, "native"),
        ({"sources": (ETH1,), "T": 0}, "1 to 100"),
        ({"sources": (ETH1,), "T": 101}, "1 to 100"),
        ({"sources": (ETH1,), "count": 0}, "-c"),
        ({"sources": (ETH1,), "duration_ns": 0}, "30s"),
        ({"sources": (ETH1,), "ring": 1}, "ring"),
        ({"sources": (ETH1,), "snaplen": 0}, "snap length"),
        ({"sources": (ETH1, ETH1)}, "twice"),
        ({"sources": (ETH1, QueueSpec("eth1", (2,)))}, "twice"),
        ({"sources": (QueueSpec("eth1", (1, 2)), QueueSpec("eth1", (2, 3)))}, "queue 2"),
        ({"sources": (ETH1,), "buddies": ((ETH1,),)}, "advanced"),
        ({"sources": (ETH1,), "mode": "advanced", "buddies": ((),)}, "empty"),
        ({"sources": (ETH1,), "mode": "advanced", "buddies": ((ETH1,), (ETH1,))}, "twice"),
        ({"sources": (ETH1,), "mode": "advanced", "buddies": ((QueueSpec("eth2"),),)}, "-i eth2"),
    ],
)
def test_capture_refusals(wrong, says):
    """A capture that contradicts itself is refused, and the words say which option."""
    with pytest.raises(UsageError) as refused:
        CaptureConfig(**wrong)
    assert says in str(refused.value)


def test_capture_queues_may_be_split_over_options():
    """-i eth1@0 -i eth1@1 captures two queues, in the order given."""
    config = CaptureConfig(sources=(QueueSpec("eth1", (1,)), QueueSpec("eth1", (0,))))
    assert [(spec.interface, spec.queues) for spec in config.sources] == [("eth1", (1,)), ("eth1", (0,))]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"path": ""}, "no name"),
        ({"path": "a", "format": "erf"}, "pcapng, pcap"),
        ({"path": "a", "split_bytes": 1, "ring_bytes": 1}, "-C, -G and -W"),
        ({"path": "-", "split_ns": 1}, "standard output cannot be split"),
        ({"path": "-", "per_queue": True}, "standard output cannot be split"),
        ({"path": "a", "split_files": 3}, "-W: nothing starts"),
        ({"path": "a", "ring_files": 3}, "-b files: nothing starts"),
        ({"path": "a", "stop_files": 3}, "-a files: nothing starts"),
    ],
)
def test_write_refusals(wrong, says):
    """Rotation that contradicts itself is refused, and the words say which option."""
    with pytest.raises(UsageError) as refused:
        WriteConfig(**wrong)
    assert says in str(refused.value)
