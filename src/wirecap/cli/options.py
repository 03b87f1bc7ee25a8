"""What the commands share: parameters with units, help in sections, refusal of other tools' options that do not apply,
the options that ``capture`` and ``forward`` have in common, and results as JSON."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from wirecap import units
from wirecap.cli import closing, usage, uses
from wirecap.cli.typed import as_typed
from wirecap.config import capture as config
from wirecap.config.capture import Cpus, PoolConfig
from wirecap.config.endpoint import Endpoint
from wirecap.config.specs import HandlerSpec, QueueSpec, parse_numbers
from wirecap.errors import UsageError
from wirecap.files.rotation import COMPRESSIONS
from wirecap.observe import log
from wirecap.units import format_size, parse_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    AnyParamType = click.ParamType[Any]
else:  # not generic in older versions of click
    AnyParamType = click.ParamType

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Parsed(AnyParamType):
    """A parameter read by ``parse``; the option's name is put in front of its error messages."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except UsageError as error:
            where = f"{param.opts[0]}: " if param and param.opts else ""
            raise UsageError(where + error.message, error.hint) from None


def output_path(text: str) -> str:
    """A file to be written at the end of a run, or ``-``; one that cannot be written is refused before the run."""
    path, reason = Path(text), ""
    if text == "-":
        return text
    if path.suffix.lower() in COMPRESSIONS:
        raise UsageError(f"{text}: it is written as it is, not compressed", f"name it {path.with_suffix('')}")
    if path.is_dir():
        reason = "is a directory"
    elif not path.parent.is_dir():
        reason = "no such folder"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        reason = "permission denied"
    if reason:
        raise UsageError(f"{text}: {reason}", "name a file in a folder that you can write to")
    return text


def page_path(text: str) -> str:
    """A page to be written at the end of a run."""
    if text == "-":
        raise UsageError("the page goes to a file, not to standard output", "name one, such as capture.html")
    return output_path(text)


def utf8(text: str) -> str:
    """A comment of a pcapng file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("the comment is not valid UTF-8", "pcapng stores text as UTF-8") from None
    return text


SIZE = Parsed("SIZE", units.parse_size)
COUNT = Parsed("N", units.parse_count)
DURATION = Parsed("TIME", units.parse_duration_ns)
PERCENT = Parsed("PERCENT", units.parse_percent)
OUTPUT = Parsed("FILE", output_path)
PAGE = Parsed("FILE", page_path)


class Option(click.Option):
    """An option that belongs to a section of the help text."""

    def __init__(self, *args: Any, section: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = _suggestions(self, ctx, incomplete)
        return super().shell_complete(ctx, incomplete) if found is None else found


class Argument(click.Argument):
    """An argument that a shell completes by its name in the help: FILES, FILTER, IN OUT."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = _suggestions(self, ctx, incomplete)
        return super().shell_complete(ctx, incomplete) if found is None else found


def _suggestions(param: click.Parameter, ctx: click.Context, incomplete: str) -> list[CompletionItem] | None:
    from wirecap.cli import completing

    return completing.values(param, ctx, incomplete)


class Command(click.Command):
    """A command whose help lists the options by section, in the order of their declaration.

    It refuses options that are given twice, and files that have two uses.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            if not ctx.resilient_parsing:
                uses.check_repeats(self.make_parser(ctx).parse_args(given)[2])
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click leaves it out for an option without its value
            raise

    def invoke(self, ctx: click.Context) -> Any:
        uses.check_files(self, ctx)
        return super().invoke(ctx)

    def get_help(self, ctx: click.Context) -> str:
        return as_typed(super().get_help(ctx))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "section", "Other"), []).append(record)
        for name, rows in sections.items():
            with formatter.section(name):
                formatter.write_dl(rows, col_max=28)


class Group(click.Group):
    """Commands of a command, whose options are as those of any other."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise usage.unknown_command(args[0], self.commands, f"{ctx.command_path} --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with their first sentence, whole: click cuts it to fit a line."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, found.get_short_help_str(1000)) for name, found in self.commands.items()])


def argument(*args: Any, **kwargs: Any) -> Callable[[Decorated], Decorated]:
    """``click.argument`` with completion."""
    return click.argument(*args, cls=Argument, **kwargs)


def section(name: str) -> Callable[..., Callable[[Decorated], Decorated]]:
    """An ``option`` decorator for one section."""

    def option(*args: Any, **kwargs: Any) -> Callable[[Decorated], Decorated]:
        return click.option(*args, cls=Option, section=name, **kwargs)

    return option


def refused(*names: str, message: str, hint: str) -> Callable[[Decorated], Decorated]:
    """Hidden flags of other tools that this one refuses, giving the reason."""

    def refuse(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if value not in (None, False, 0):
            raise UsageError(f"{param.opts[0]}: {message}", hint)

    def decorate(function: Decorated) -> Decorated:
        for name in names:
            destination = f"refused_{name.encode().hex()}"
            takes = name.endswith("=")
            kind: dict[str, Any] = {"is_flag": not takes, **({"flag_value": ""} if takes else {})}
            option = click.option(
                name.rstrip("="), destination, hidden=True, expose_value=False, callback=refuse, **kind
            )
            function = option(function)
        return function

    return decorate


WRITING = ("-w=", "--write=", "-C=", "-G=", "-W=", "-b=", "--index", "--keep=")
PRINTING = ("--print", "-A", "-x", "-X", "-e", "-n", "-t", "-#", "-l")
"""Options of capture (and tcpdump) that make a file, or show packets: names for ``refused``."""

Section = Callable[..., Callable[[Any], Any]]

until = section("When to stop")
output = section("What to show")


def parse_cpus(text: str) -> Cpus:
    if text.strip() == config.BESIDE:
        return config.BESIDE
    cpus = parse_numbers(text, text, "0,1 or 0-3", 1 << 16)
    allowed = os.sched_getaffinity(0)
    for cpu in cpus:
        if cpu not in allowed:
            raise UsageError(f"CPU {cpu} is not available", f"choose from {', '.join(map(str, sorted(allowed)))}")
    return cpus


def parse_buddies(text: str) -> tuple[QueueSpec, ...]:
    return tuple(QueueSpec.parse(part) for part in text.split("+"))


class Buffer(NamedTuple):
    """The value of -B, in bytes and as it was typed."""

    size: int
    typed: str


def parse_buffer(text: str) -> Buffer:
    return Buffer(parse_size(f"{text}KiB" if text.strip().isdecimal() else text), text)


def _threshold(text: str) -> int:
    if text.strip()[:1].isalpha():
        raise UsageError(
            f"{text!r} is not a percentage", f"for tcpdump's -T: wirecap capture -w - | tcpdump -T {text} -r -"
        )
    return units.parse_percent(text)


def _chunk_size(text: str) -> int:
    if text.strip()[:1].isalpha():
        raise UsageError(
            f"{text!r} is not a number of packets per chunk", f"for tcpdump's -M: tcpdump -M {text} -r FILE"
        )
    return units.parse_count(text)


HANDLER = Parsed("NAME[:KEY=VALUE,...]", HandlerSpec.parse)


def pool_of(given: dict[str, Any]) -> PoolConfig:
    M, R, cell = given["M"], given["R"], given["cell"]
    if given["buffer_size"] is None:
        return PoolConfig(M, 100 if R is None else R, cell)
    if R is not None:
        raise UsageError("-R and -B both set the size of the pool", "use only one of them")
    PoolConfig(M, 2, cell)  # check M and cell before dividing by them
    size, typed = given["buffer_size"]
    R = size // (M * cell)
    if R < 2:
        least = format_size(2 * M * cell)
        raise UsageError(
            f"-B {typed}: {format_size(size)} is less than two chunks of {M} cells of {cell} bytes",
            f"use {least} or more, or a smaller -M; a number without a unit means KiB, as in tcpdump",
        )
    if R > config.MAX_R:
        raise UsageError(
            f"-B {typed} is more than {config.MAX_R:,} chunks of {M} cells of {cell} bytes",
            "use a size that fits into this host's memory",
        )
    return PoolConfig(M, R, cell, buffer=typed)


def _log_format(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not ctx.resilient_parsing:
        log.use(value)
    return value


def options(where: Section, engine: Section) -> Callable[[Decorated], Decorated]:
    """The options of both commands, given their sections for what is received and how."""
    shared = [
        where("-f", "--filter", "filter_text", metavar="FILTER", help="The filter, given as in dumpcap."),
        where("-p", "--no-promiscuous-mode", "not_promiscuous", is_flag=True, help="Leave promiscuous mode off."),
        where("--netns", metavar="NAME", help="Network namespace of the interfaces."),
        where("--take-over", is_flag=True, help="Take over an interface in use: the host loses its packets."),
        until("-c", "--packets", "count", type=COUNT, help="Stop after this many packets."),
        until("--duration", "duration_ns", type=DURATION, help="Stop after this time on the clock: 30s, 5m."),
        engine("--mode", type=click.Choice(config.MODES), default="basic", show_default=True,
               help="advanced: overloaded queues hand chunks to idle ones."),
        engine("-M", "--chunk-size", "M", type=Parsed("N", _chunk_size), default=256, show_default=True,
               help="Packets per chunk."),
        engine("-R", "--chunks", "R", type=COUNT, help="Chunks per queue.  [default: 100]"),
        engine("-T", "--threshold", "T", type=Parsed("PERCENT", _threshold), default=60, show_default=True,
               help="Capture queue length that calls for a buddy, in % of R."),
        engine("--buddies", multiple=True, metavar="eth1@0-3+eth2", type=Parsed("GROUP", parse_buddies),
               help="A buddy group; repeatable.  [default: one group of all queues]"),
        engine("-B", "--buffer-size", type=Parsed("SIZE", parse_buffer),
               help="Buffer per queue, instead of -R: 64MiB, or a number of KiB."),
        engine("--cell", type=SIZE, default=2048, show_default=True, help="Bytes per packet: 2048 or 4096."),
        engine("--xdp-mode", type=click.Choice(config.XDP_MODES), default="auto", show_default=True,
               help="Where the XDP program runs."),
        engine("--kernel-filter", type=click.Choice(["drop", "host"]),
               help="Run the filter in the kernel; drop the packets it rejects, or pass them to the host."),
        engine("--capture-threads", type=COUNT, help="Number of capture threads.  [default: one per queue]"),
        engine("--cpus", type=Parsed("LIST|auto", parse_cpus), default=(), help="CPUs to pin threads to: 0,1; auto:"
               " beside their queues' interrupts, on the NIC's NUMA node."),
        engine("--busy-poll", is_flag=True, help="xdp: capture threads poll the NIC instead of waiting for its"
               " interrupts; for dedicated NICs and CPUs."),
        engine("--nic-hash", is_flag=True, help="xdp, direct: the NIC's hash of each packet, for handlers"
               " (packet.nic_hash)."),
        engine("--timeout", "timeout_ns", type=DURATION, default=1_000_000,
               help="How long a chunk may fill up while its handler is busy.  [default: 1ms]"),
        engine("--seccomp", is_flag=True, help="Have the kernel refuse system calls that a capture does not make."),
        output("-q", "--quiet", is_flag=True, help="Print only the counters at the end; --ready-file signals"
               " readiness."),
        output("--log-format", type=click.Choice(log.FORMATS), default="text", show_default=True, is_eager=True,
               callback=_log_format, help="Write lines on standard error as text, or each as a JSON object."),
        output("--ready-file", metavar="FILE", help="Once packets are captured, create this file, with the process id"
               " in it, and remove it at the end; or write to a FIFO. systemd is told too (Type=notify)."),
        output("-v", "--verbose", count=True, help="Print the counters of each queue at the end."),
        output("--metrics", type=Parsed("[HOST:]PORT", Endpoint.parse), help="Serve Prometheus here: 9464 means"
               " 127.0.0.1:9464, which other hosts cannot reach."),
        output("--summary-json", "--json", type=OUTPUT, help="Write the summary as JSON; - is standard output."),
        output("--html", "html_file", type=PAGE, metavar="FILE", help="Write a page with plots: rates, queues, losses,"
               " and what would have held them."),
    ]  # fmt: skip

    def decorate(function: Decorated) -> Decorated:
        for option in reversed(shared):
            function = option(function)
        return function

    return decorate


def config_of(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of CaptureConfig that are set by these options, and by others of the same names."""
    same = ("engine", "mode", "xdp_mode", "T", "handlers", "kernel_filter", "netns", "take_over", "capture_threads",
            "cpus", "timeout_ns", "busy_poll", "nic_hash", "buddies", "keep_going", "metrics",
            "html_file")  # fmt: skip
    return {name: given[name] for name in same} | {
        "pool": pool_of(given), "ring": given["ring_cells"], "promiscuous": not given["not_promiscuous"],
    }  # fmt: skip


def compiling(name: str) -> None:
    """Announce that a kernel is being compiled, as that takes seconds."""
    click.echo(f"wirecap: compiling {name} (once)", err=True)


def json_option(help: str, section_name: str = "What to show") -> Callable[[Decorated], Decorated]:
    """``--json [FILE]`` for a command without arguments; without a file it means standard output, as ``-`` does."""
    return section(section_name)(
        "--json", "json_file", is_flag=False, flag_value="-", type=OUTPUT, metavar="[FILE]",
        help=f"{help} as JSON; - or no name: on standard output.",
    )  # fmt: skip


def write_json(path: str, found: Any) -> None:
    """Write a result as JSON to a file or, for ``-``, to standard output."""
    try:
        closing.write_json(found, path, indent=1)
    except OSError as error:
        if path == "-":  # a reader that has gone away is reported as for every command
            raise
        raise UsageError(
            f"{path}: {(error.strerror or str(error)).lower()}", "name a file that you can write to"
        ) from None
