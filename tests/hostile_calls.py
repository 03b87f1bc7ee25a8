"""Hostile words where a user, a program or Wireshark calls: command lines, handlers' options, TOML, extcap(4)."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from pathlib import Path
from typing import Any

import click

from hostile_python import FILTER_WORDS, OPTION_WORDS, PythonTarget, changed
from wirecap.cli import config_file
from wirecap.cli.main import SECTIONS, Commands
from wirecap.config.capture import WriteConfig
from wirecap.config.handlers import HANDLERS
from wirecap.config.specs import HandlerSpec
from wirecap.extcap import sentences
from wirecap.extcap.arguments import parse
from wirecap.extcap.capture import configured
from wirecap.extcap.options import OPTIONS
from wirecap.handlers import table
from wirecap.handlers.handler import Setting

HANDLER_NAMES = [name for name in HANDLERS if name not in ("serve", "share")]
OPTION_NAMES = "x rate state top tunnel idle active inner flows table size key count".split()
MAKES_NOTHING = {"wireshark", "service", "completion", "man", "testbed", "demo"}
"""Commands that are groups or have hardly an option."""
TOML = (
    b'interface = ["eth1", "eth2"]\nfilter = "tcp"\ncount = 5\nchunks = 100\nkeep = "60s"\n',
    b'read = "a.pcap"\nwrite = "x-%H.pcapng"\nring-buffer = ["files:3", "filesize:1000"]\nquiet = true\n',
    b'handler = ["pkt_handler:x=300", "flows:tunnel=inner"]\nto = ["file:a.json"]\nmetrics = "127.0.0.1:9464"\n',
)  # fmt: skip
HANDLER_FILE = """
import wirecap

@wirecap.compiled_handler
def compiled(packet, state, size=60, half=0.5, odd=False):
    state.count += 1

@wirecap.packet_handler
def plain(packet, name="x", number=3):
    pass

@wirecap.packet_handler(state=dict)
def with_state(packet, state, most=10):
    pass

nothing = 5
"""


def _told(error: OSError) -> str:
    """What a user gets to read of a name that is too long, or of a folder: the command makes a sentence of these."""
    if error.errno not in (errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES):
        raise error
    return os.strerror(error.errno)


class Calls(PythonTarget):
    """Command lines up to where they would do something; handlers with their options; configuration files."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        group = Commands()
        names = [name for section in SECTIONS.values() for name in section if name not in MAKES_NOTHING]
        context = click.Context(group)
        self.commands = {name: group.get_command(context, name) for name in names}
        self.capture("own.py", HANDLER_FILE.encode())

    def attempt(self) -> Any:
        way = self.dice.random()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return self._line() if way < 0.5 else self._handler() if way < 0.8 else self._toml()
        except (click.ClickException, click.exceptions.Exit, click.Abort) as error:
            return type(error).__name__, str(error)[:40]
        except OSError as error:
            return _told(error)

    def _words(self, most: int) -> str:
        dice = self.dice
        return "".join(dice.choice(OPTION_WORDS) for _ in range(dice.randrange(1, most))).replace("\0", "")

    def _line(self) -> Any:
        dice = self.dice
        name = dice.choice(list(self.commands))
        command = self.commands[name]
        assert command
        words = []
        for _ in range(dice.randrange(1, 7)):
            one = dice.choice(command.params) if command.params else None
            if isinstance(one, click.Option) and one.opts and dice.random() < 0.85:
                opt = dice.choice(one.opts)
                words += [opt] if one.is_flag or dice.random() < 0.05 else [opt, self._words(4)]
            else:
                words.append(self._words(4))
        if dice.random() < 0.1:
            words.append(dice.choice(["-", "--", "---", "-" + self._words(3), "--" + self._words(3)]))
        self.case = " ".join([name, *words]).encode(errors="surrogatepass")
        command.make_context(name, words)
        return name, len(words)

    def _handler(self) -> Any:
        dice = self.dice
        own = str(self.work / "own.py")
        name = dice.choice([*HANDLER_NAMES, f"{own}:compiled", f"{own}:plain", f"{own}:with_state", f"{own}:nothing",
                            f"{own}:nosuch", "no.such:thing", self._words(3)])  # fmt: skip
        known = [*OPTION_NAMES, "half", "odd", "name", "number", "most"]
        options = ",".join(f"{dice.choice(known)}={self._words(3)}" for _ in range(dice.randrange(4)))
        text = name + (":" + options if options else dice.choice(["", "", ":", ":x", ":="]))
        self.case = text.encode(errors="surrogatepass")
        spec = HandlerSpec.parse(text)
        write = WriteConfig(path=str(self.work / "out.pcapng"))
        found = table.complete([spec], write)
        if spec.name in HANDLERS or spec.name.startswith(own):
            table.make(found[0], Setting(write=write)).discard()
        return spec.name

    def _toml(self) -> Any:
        self.case = changed(self.dice, self.dice.choice(TOML), list(TOML))
        config_file.read(self.capture("a.toml", self.case))
        return len(self.case)


class Wireshark(PythonTarget):
    """Calls of ``wirecap-extcap``, answered as far as that needs no packet."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.fifo = str(Path(self.work) / "fifo")

    def attempt(self) -> Any:
        try:
            return self._call()
        except OSError as error:
            return _told(error)

    def _call(self) -> Any:
        dice = self.dice
        names = [f"--{option.name}" for option in OPTIONS] + ["--extcap-capture-filter", "--extcap-reload-option",
                 "--extcap-version", "--extcap-control-in", "--extcap-nosuch"]  # fmt: skip
        call = dice.choice(["--extcap-interfaces", "--extcap-dlts", "--extcap-config", "--capture", "--capture", ""])
        words = [word for word in [call, "--extcap-interface"] if word]
        words += [dice.choice(["wirecap", "wirecap-lo", "wirecap-any", "wirecap-nosuch", self._value()])]
        words += ["--fifo", self.fifo]
        for _ in range(dice.randrange(7)):
            name, value = dice.choice(names), self._value()
            words += dice.choice([[name, value], [f"{name}={value}"], [name], [value]])
        if dice.random() < 0.1:
            dice.shuffle(words)
        self.case = "\n".join(words).encode(errors="surrogatepass")
        asked = parse(words)
        match asked.call:
            case "interfaces":
                return asked.call, len(sentences.interfaces())
            case "dlts":
                return asked.call, len(sentences.link_types(asked))
            case "config":
                return asked.call, len(sentences.configuration(asked))
            case "filter":
                return asked.call, len(sentences.wrong_filter(asked))
            case "capture":
                config, _ = configured(asked)
                return asked.call, config.engine, config.mode
        return asked.call

    def _value(self) -> str:
        dice = self.dice
        given = [value for option in OPTIONS for value in (option.values or ())]
        pick = dice.random()
        if pick < 0.4:
            return str(dice.choice([*given, *(option.default for option in OPTIONS)]))
        words = FILTER_WORDS if pick < 0.6 else OPTION_WORDS
        return "".join(dice.choice(words) for _ in range(dice.randrange(1, 4))).replace("\0", "")


TARGETS = {"calls": Calls, "wireshark": Wireshark}
