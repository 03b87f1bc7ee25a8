"""``--config FILE.toml``: what the file may say, what wins, and what is refused in which words."""

from __future__ import annotations

import json

import click
import pytest

from rig import PCAP_HEADER, pcap_records
from wirecap.cli import config_file, main
from wirecap.kernels.base.jit import PURE


def context(name="capture"):
    parent = main.main.make_context("wirecap", [name])
    return click.Context(main.main.get_command(parent, name), parent, name)


def given(*arguments, command="capture"):
    """The parameters of a command line."""
    ctx = context(command)
    ctx.command.parse_args(ctx, list(arguments))
    return ctx.params


@pytest.fixture
def written(tmp_path):
    """Writes the configuration and returns its path."""

    def write(text):
        path = tmp_path / "it.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def refusal(path, capfd, *arguments):
    """The one line with which a configuration is refused."""
    assert main.run(["capture", "--config", path, *arguments, "--check-config"]) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err.removeprefix("wirecap: ").strip()


@pytest.mark.parametrize("name", ["capture", "forward"])
def test_every_letter_has_a_long_name(name):
    """An option that --help shows can be written in a file."""
    params = [param for param in context(name).command.params if isinstance(param, click.Option) and not param.hidden]
    assert [param.opts for param in params if not any(one.startswith("--") for one in param.opts)] == []


def test_the_same_as_typed(written):
    """A file gives the parameters that its options would give as arguments."""
    path = written(
        'interface = ["eth1", "eth2@0-3"]\nfilter = "tcp port 443"\nwrite = "x.pcapng"\nfile-time = "1h"\n'
        'chunk-size = 128\nchunks = 50\nthreshold = 70\nmode = "advanced"\nverbose = 2\nquiet = true\npcap = false\n'
        'capture-comment = "one"\nnano = true\nhandler = ["count", "pkt_handler:x=300"]\ntimeout = "2ms"\n'
    )
    typed = given(
        "-i", "eth1", "-i", "eth2@0-3", "-f", "tcp port 443", "-w", "x.pcapng", "-G", "1h", "-M", "128", "-R", "50",
        "-T", "70", "--mode", "advanced", "-vv", "-q", "--capture-comment", "one", "--nano", "--handler", "count",
        "--handler", "pkt_handler:x=300", "--timeout", "2ms",
    )  # fmt: skip
    assert {**given("--config", path), "config_file": None} == typed


def test_the_command_line_wins(written):
    """Also over lists as a whole, over an option that the typed one makes meaningless, and for the filter's words."""
    path = written('interface = ["eth1", "eth2"]\nfilter = "tcp"\nchunks = 50\nthreshold = 70\nnano = true\n')
    found = given("-i", "lo", "--config", path, "-B", "64MiB", "-T", "80", "--time-stamp-precision", "micro", "udp")
    assert [str(spec) for spec in found["sources"]] == ["lo"]
    assert (found["filter_text"], found["words"], found["R"], found["T"]) == (None, ("udp",), None, 80)
    assert found["precision"] == "micro"
    reading = given("--config", path, "-r", "x.pcap")
    assert (reading["sources"], reading["read_file"], reading["filter_text"]) == ((), "x.pcap", "tcp")


def test_a_configuration_that_is_right(written, capfd):
    """--check-config prints one line, and forward has it too."""
    path = written('filter = "tcp"\nthreshold = 70\n')
    assert main.run(["capture", "-i", "nonesuch", "--config", path, "--check-config"]) == 0
    assert main.run(["forward", "eth1", "eth2", "--config", path, "--check-config"]) == 0
    assert capfd.readouterr() == (f"{path}: ok\n" * 2, "")


WRONG = {
    'quiet = true\n\nhander = "count"': ":3: unknown key 'hander' (did you mean handler?)",
    'filter = """\nT = 1\n"""\nT = 3': ":4: unknown key 'T' (did you mean threshold?)",
    "[capture]\nquiet = true": ":1: unknown key 'capture' (there are no tables: leave out [capture], and",
    "list-interfaces = true": ":1: unknown key 'list-interfaces' (this option is only for the command line)",
    "config = 'x'": ":1: unknown key 'config' (this option is only for the command line)",
    "duration = 2026-01-31": ":1: duration: 2026-01-31 is not a value for it",
    "quiet = true\nquiet = false": ":2:14: cannot overwrite a value (each key once, and a list for several",
    "threshold = 700": ":1: threshold: '700' is not a whole percentage from 1 to 100 (write it as 60 or 60%)",
    "engine = 'foo'": ":1: engine: 'foo' is not known (use auto, xdp, packet or direct)",
    "chunk-size = 3.5": ":1: chunk-size: the count must be a whole number, not '3.5' (write it as 1000, 10k or 1M)",
    "quiet = 1": ":1: quiet: 1 is neither true nor false (quiet = true)",
    "verbose = 'x'": ":1: verbose: 'x' is neither true nor false (verbose = true, or how many times)",
    "cpus = [1, 2]": ":1: cpus takes one value, not a list (write it without brackets)",
    "netns = true": ':1: netns: true is not a value for it (write it as netns = "...")',
    "handler = [{}]": ':1: handler: a table is not a value for it (write it as handler = "...")',
    "json = 'a'\nsummary-json = 'b'": ":2: summary-json and json are the same option (leave one of them out)",
    "quiet = \n": ':1:9: invalid value (write it as: filter = "tcp port 443")',
    'quiet = true\nfilter = """a': ':2:14: unterminated string (write it as: filter = "tcp port 443")',
    b'quiet = true\nfilter = "\xff"': ":2: not UTF-8 (TOML files are text in UTF-8)",
    "a = " + "[" * 5000: ": lists in lists, too deep",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_what_is_refused(text, written, capfd):
    """One line: the file, the line of it, the key, the value and the way out."""
    path = written(text)
    line = refusal(path, capfd, "-i", "lo")
    assert line.startswith(path + WRONG[text]), line


def test_what_is_refused_as_of_the_option(written, capfd):
    """What options say together, a filter that is none, a handler that there is not: with the file and the line."""
    unknown = written('quiet = true\nhandler = "cout"')
    assert refusal(unknown, capfd, "-i", "lo") == f"{unknown}:2: unknown handler 'cout' (did you mean count?)"
    own = written('handler = "./none.py:count"')
    expected = f"{own}:1: ./none.py: no such file (write it as ./my.py:function)"
    assert refusal(own, capfd, "-i", "lo") == expected


WRONG_TOGETHER = {
    "chunks = 1": ":1: R must be 2 to 1000000, not 1 ",
    'interface = "lo"\nchunks = 1\nquiet = true': ":2: R must be 2 to 1000000, not 1 ",
    'quiet = true\nfilter = "tcp prt 80"': ":2: filter 'tcp prt 80': syntax error",
    'write = "x.pcapng"\nkeep = "60s"\nsave-on = "tcp prt 80"\n': ":3: --save-on: filter 'tcp prt 80': ",
    'write = "x.pcapng"\nlimit = "1GiB"\nfile-time = "1h"\n': ":3: --limit: one file of -G can fill the folder",
    'file-time = "1h"\nlimit = "1GiB"\nquiet = true\nwrite = "x.pcapng"\n': ":2: --limit: one file of -G can fill",
    'write = "x.pcapng"\non-file = "nonesuch-command"\n': ":2: --on-file: nonesuch-command: no such program",
    'quiet = true\nchunks = 9\nbuffer-size = "1MiB"\n': ":3: -R and -B both set the size of the pool",
    'buffer-size = "1MiB"\nchunks = 9\nquiet = true\n': ":2: -R and -B both set the size of the pool",
    'per-queue = true\nlimit = "1GiB"\n': ":2: there are options for an output file, but no file is named",
    'pcap = true\nwrite = "x"\ncapture-comment = "c"\n': ":3: a pcap file cannot hold comments",
    'write = "x"\nready-file = "x"\n': ":2: --ready-file x: the file has another use",
    'interface = ["eth1", "eth1"]': ":1: eth1 is captured twice",
    'write = "x.pcapng"\nsave-on-drops = 3': ":2: --save-on-drops has no effect without --keep",
}


@pytest.mark.parametrize("text", WRONG_TOGETHER, ids=range(len(WRONG_TOGETHER)))
def test_what_is_refused_together(text, written, capfd):
    """What several keys say together is told with the line of the last that has a part in it."""
    path = written(text)
    line = refusal(path, capfd, *(() if "interface" in text else ("-i", "lo")))
    assert line.startswith(path + WRONG_TOGETHER[text]), line


def test_what_the_file_has_no_part_in(written, capfd):
    """What was typed, or is missing, stands on no line of the file."""
    assert refusal(written("quiet = true"), capfd).startswith("nothing to capture from")
    assert refusal(written("quiet = true\nchunks = 9"), capfd, "-i", "lo", "-R", "1").startswith("R must be 2 to")
    assert refusal(written('filter = "tcp"'), capfd, "-i", "lo", "tcp prt 80").startswith("filter 'tcp prt 80': ")


@pytest.mark.parametrize("command", [["forward", "eth1", "eth2"], ["serve", "eth1"]])
def test_what_is_refused_of_other_commands(command, written, capfd):
    """forward and serve tell the file and the line, too; so does the command without --check-config."""
    path = written("quiet = true\nchunks = 1\n")
    for more in ([], ["--check-config"]):
        assert main.run([*command, "--config", path, *more]) == 2
        assert capfd.readouterr().err.startswith(f"wirecap: {path}:2: R must be")
    assert main.run(["service", "show", "--config", written('interface = "lo"\nchunks = 1\n')]) == 2
    assert capfd.readouterr().err.startswith(f"wirecap: {path}:2: R must be 2 to")


def test_a_file_that_cannot_be_read(tmp_path, written, capfd):
    assert "no such file" in refusal(str(tmp_path / "none"), capfd)
    assert "is a directory" in refusal(str(tmp_path), capfd)
    assert "more than 1 MiB" in refusal("/dev/zero", capfd)
    assert main.run(["capture", "-i", "lo", "--check-config"]) == 2
    assert "--check-config needs a file to check (add --config FILE)" in capfd.readouterr().err


def test_lines_of_keys():
    """A key is found where TOML has it, and not inside a string or list of several lines."""
    text = 'a = """\nb = 1\n"""\nc = [\n"d",\n]\n"d" = 1\nb.x = 2\n[[e]]\n'
    assert [config_file.line_of(text, key) for key in "acdbe"] == [1, 4, 7, 8, 9]


@pytest.mark.skipif(PURE, reason="the commands run compiled")
def test_a_capture_by_its_file(tmp_path, written, capfd):
    """Reading, filtering and writing as the file says, with the count as typed."""
    trace, out = tmp_path / "trace.pcap", tmp_path / "out.pcapng"
    trace.write_bytes(PCAP_HEADER + pcap_records(20))
    path = written(f'read = "{trace}"\nwrite = "{out}"\npackets = 15\nsummary-json = "-"\nquiet = true\n')
    assert main.run(["capture", "--config", path, "-c", "10"]) == 0
    assert json.loads(capfd.readouterr().out)["packets"]["written"] == 10
    assert out.stat().st_size > 0
