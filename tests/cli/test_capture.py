from __future__ import annotations

import json
import struct
import sys
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from wirecap.cli import capture, main
from wirecap.config.capture import CaptureConfig, PoolConfig, WriteConfig
from wirecap.config.specs import HandlerSpec, QueueSpec
from wirecap.errors import UsageError, WirecapError

SUMMARY: dict[str, Any] = {
    "packets": {"received": 12, "delivered": 10, "filtered_out": 0, "written": 10, "forwarded": 0, "offloaded": 0,
                "dropped": 2, "drops": {"pool_exhausted": 2, "ring_full": 0}},
    "per_queue": [{"interface": "eth1", "queue": 0, "received": 12, "delivered": 10, "offloaded": 0, "dropped": 2}],
    "files_written": 1,
}  # fmt: skip


class Recorder:
    """Stands for the engine: keeps what it was asked to do."""

    failure: Exception | None = None

    def run_capture(
        self, config: CaptureConfig, write: WriteConfig | None, progress: Any, forward: None, tell: Any, **_: Any
    ) -> None:
        self.config, self.write, self.progress = config, write, progress
        tell(SUMMARY, True)
        if self.failure:
            raise self.failure


@pytest.fixture
def engine(monkeypatch):
    recorder = Recorder()
    module = ModuleType("wirecap.api")
    module.run_capture = recorder.run_capture
    monkeypatch.setitem(sys.modules, "wirecap.api", module)
    monkeypatch.setattr("wirecap.api", module, raising=False)
    return recorder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(capture.command, arguments)


def asked(engine: Recorder, *arguments: str) -> tuple[CaptureConfig, WriteConfig | None]:
    done = run(*arguments)
    assert done.exception is None, done.exception
    return engine.config, engine.write


def test_defaults(engine):
    """-i alone counts, basic mode, the paper's pool."""
    assert asked(engine, "-i", "eth1") == (CaptureConfig(sources=(QueueSpec("eth1"),)), None)


def test_tcpdump_fingers(engine):
    """A tcpdump command line means here what it means there."""
    config, write = asked(engine, *"-nn -vi eth1 -s0 -c 1000 -C 10 -W 5 -U -p -w out.pcap tcp port 443".split())
    assert config == CaptureConfig(sources=(QueueSpec("eth1"),), count=1000, promiscuous=False, filter="tcp port 443")
    assert write == WriteConfig(
        path="out.pcap", format="pcap", split_bytes=10_000_000, split_files=5, packet_buffered=True
    )


def test_dumpcap_fingers(engine):
    """A dumpcap command line means here what it means there."""
    line = "-q -i eth1 -f udp -s 128 -a duration:30 -a packets:500 -b filesize:1000 -b files:10 -P -w out"
    config, write = asked(engine, *line.split())
    assert config == CaptureConfig(
        sources=(QueueSpec("eth1"),), filter="udp", snaplen=128, duration_ns=30 * 10**9, count=500
    )
    assert write == WriteConfig(path="out", format="pcap", snaplen=128, ring_bytes=1_000_000, ring_files=10)


def test_engine_options(engine):
    """Every option of the engine arrives."""
    config, _ = asked(
        engine,
        *"-i eth1@0-1 -i eth2 --engine xdp --mode advanced -M 128 -R 200 -T 80% --cell 4096 --ring 1024".split(),
        *"--xdp-mode generic --capture-threads 2 --cpus 0 --timeout 5ms --netns X --take-over --keep-going".split(),
        *"--buddies eth1@0-1+eth2 --handler pkt_handler:x=300 --handler count --duration 2m".split(),
    )
    assert config == CaptureConfig(
        sources=(QueueSpec("eth1", (0, 1)), QueueSpec("eth2")),
        engine="xdp",
        mode="advanced",
        pool=PoolConfig(128, 200, 4096),
        T=80,
        ring=1024,
        xdp_mode="generic",
        capture_threads=2,
        cpus=(0,),
        timeout_ns=5_000_000,
        netns="X",
        take_over=True,
        keep_going=True,
        buddies=((QueueSpec("eth1", (0, 1)), QueueSpec("eth2")),),
        handlers=(HandlerSpec("pkt_handler", {"x": "300"}), HandlerSpec("count")),
        duration_ns=120 * 10**9,
    )


def test_buffer_size_sets_R(engine):
    """-B 50MiB at M=256 is R=100."""
    assert asked(engine, "-i", "eth1", "-B", "50MiB")[0].pool == PoolConfig(256, 100)
    assert asked(engine, "-i", "eth1", "-B", "51200")[0].pool == PoolConfig(256, 100)  # tcpdump's KiB


@pytest.mark.parametrize(
    ("name", "options", "format"),
    [
        ("a.pcap", [], "pcap"),
        ("a.pcapng", [], "pcapng"),
        ("a", [], "pcapng"),
        ("a.pcap.zst", [], "pcap"),
        ("a.pcapng", ["-P"], "pcap"),
        ("-", [], "pcapng"),
    ],
)
def test_format_by_name(engine, name, options, format):
    """.pcap makes pcap, anything else pcapng, -P pcap whatever the name."""
    write = asked(engine, "-i", "eth1", "-w", name, *options)[1]
    assert write is not None
    assert write.format == format


def test_autostop_size_with_ring_rotates(engine):
    """As in dumpcap, -a filesize is enough of a reason for the next file of -b files:3."""
    write = asked(engine, *"-i eth1 -w a -b files:3 -a filesize:10 -a files:9".split())[1]
    assert write == WriteConfig(path="a", stop_bytes=10_000, ring_files=3, stop_files=9)


def test_filter_from_file(engine, tmp_path):
    """-F reads the filter."""
    file = tmp_path / "filter"
    file.write_text("tcp\n")
    assert asked(engine, "-i", "eth1", "-F", str(file))[0].filter == "tcp"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-i eth1 -Z nobody -w x", "CAP_NET_RAW"),
        ("-i eth1 -B 64MiB -R 100", "-R and -B"),
        ("-i eth1 -B 64", "64 KiB is less than two chunks"),
        ("-i eth1 --engine xdp --fanout cpu", "--engine packet"),
        ("-i eth1 --engine xdp --defrag", "--engine packet"),
        ("-i eth1 --engine packet --xdp-mode native", "no XDP program"),
        ("-L", "-i INTERFACE"),
        ("-d -y EN10 tcp", "LINUX_SLL2"),
        ("-i eth1 --engine xdp -Q out", "incoming"),
        ("-i eth1 -r a.pcap", "an interface and a file at once"),
        ("-i eth1 -C 10", "-w FILE"),
        ("-i eth1 -a filesize:10", "-w FILE"),
        ("-i eth1 -w a -W 3", "-C SIZE"),
        ("-i eth1 -w a -G 1 -W 0", "use a positive number"),
        ("-i eth1 -w a -C 0", "less than 1"),
        ("-i eth1 -w a -a size:3", "duration:SECONDS"),
        ("-i eth1 -w a -a duration:x", "-a duration: 'x'"),
        ("-i eth1 -w a -b files:3 -b files:4", "twice"),
        ("-i eth1 -w a -b filesize:10 -C 3", "tcpdump's"),
        ("-i eth1 -w - --summary-json -", "standard output"),
        ("-i eth1 -f udp tcp", "the filter is given twice"),
        ("-i eth1 -c 0", "packet count"),
        ("-i eth1 --cpus 4000", "CPU 4000 is not available (choose from"),
        ("-i eth1 --mode advanced --buddies eth2", "-i eth2"),
        ("-i eth1@0,lo", "'eth1@0,lo' is more than one interface (name each on its own: eth1@0 and lo)"),
        ("-i nosuch0,lo", "no interface 'nosuch0,lo' (write it as -i nosuch0 -i lo)"),
    ],
)
def test_refusals(engine, line, says):
    """What cannot be done, or would mean something else than the user thinks, is refused in words that help."""
    error = run(*line.split()).exception
    assert isinstance(error, UsageError)
    assert says in str(error)


def test_closing_counters_on_stderr(engine):
    """The counters stand on stderr, tcpdump's two first, then each drop by its name."""
    done = run("-i", "eth1", "-v")
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "10 packets captured",
        "12 packets received by filter",
        "2 packets dropped: pool exhausted",
        "eth1 queue 0: 12 received, 10 captured, 0 handed to a buddy, 2 dropped",
    ]


def test_summary_to_stdout_and_file(engine, tmp_path):
    """--summary-json writes the summary as one object."""
    assert json.loads(run("-i", "eth1", "--summary-json", "-").stdout) == SUMMARY
    run("-i", "eth1", "--summary-json", str(tmp_path / "s.json"))
    assert json.loads((tmp_path / "s.json").read_text()) == SUMMARY


def test_failed_run_still_tells_its_counters(engine, tmp_path):
    """A run that fails half-way with a summary prints the counters and writes the summary."""
    engine.failure = WirecapError("the disk is full")
    done = run("-i", "eth1", "--summary-json", str(tmp_path / "s.json"))
    assert done.exception is engine.failure
    assert "10 packets captured" in done.stderr
    assert json.loads((tmp_path / "s.json").read_text()) == SUMMARY


def test_what_interfaces_have(capsys):
    """-L and -J tell of each interface what -y and -j take there; -i takes the numbers of -D."""
    assert main.run(["capture", "-L", "-i", "1", "-i", "any"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Data link types for lo (use option -y to set):",
        "  EN10MB (Ethernet)",
        "Data link types for any (use option -y to set):",
        "  LINUX_SLL2 (Linux cooked v2)",
    ]
    assert main.run(["capture", "-J", "-i", "lo"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert listed == ["host", "host_lowprec", "host_hiprec"]


def test_another_link_type_is_refused(engine):
    """-y wants the link type that the interface has: EN10MB passes on lo, a cooked one does not."""
    assert asked(engine, "-i", "lo", "-y", "en10mb")[0].sources == (QueueSpec("lo"),)
    error = run("-i", "lo", "-y", "LINUX_SLL2").exception
    assert isinstance(error, UsageError)
    assert "lo has EN10MB" in str(error)


def test_a_filters_program_for_a_link_type(capsys):
    """-y makes -d print the program for that link type: behind a cooked header IPv4's protocol is 20 + 9 bytes in."""
    assert main.run(["capture", "-d", "-y", "LINUX_SLL2", "ip proto 6"]) == 0
    assert "ldb      [29]" in capsys.readouterr().out


def test_a_filters_program_for_a_file(capsys, tmp_path):
    """-d with -r prints the program for the file's link type, as tcpdump does: raw IP has no Ethernet header."""
    file = tmp_path / "raw.pcap"
    file.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
    assert main.run(["capture", "-r", str(file), "-d", "ip proto 6"]) == 0
    assert "ldb      [9]" in capsys.readouterr().out


def test_list_and_dump_need_no_engine(capsys):
    """-D and -d answer without capturing; lo is always there."""
    assert main.run(["capture", "-D"]) == 0
    assert "lo" in capsys.readouterr().out.split()
    assert main.run(["capture", "-d", "ip"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "(000) ldh      [12]",
        "(001) jeq      #0x800           jt 2\tjf 3",
        "(002) ret      #262144",
        "(003) ret      #0",
    ]
