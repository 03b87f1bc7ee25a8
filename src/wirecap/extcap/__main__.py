"""``wirecap-extcap``, which Wireshark, tshark and the rest of that family start.

Wireshark asks for the interfaces at each of its starts, and for the configuration of each of them: these answers import
little. It shows what comes on standard error as an error, and nothing of the exit status.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from wirecap.extcap import sentences
from wirecap.extcap.arguments import Arguments, parse

HELP = """Wireshark starts this program, to capture with WireCAP.

  wirecap wireshark install    puts it where Wireshark looks for it; then Wireshark lists wirecap-eth1, ...
  wirecap-extcap --extcap-interfaces | --extcap-config | --extcap-dlts | --capture --fifo FILE
                               is how Wireshark calls it (extcap(4)); all but the first with --extcap-interface NAME
"""


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ended)
    sys.exit(run(sys.argv[1:], alone=True))


def _ended(number: int, frame: FrameType | None) -> None:
    """Wireshark ends a capture before the first packet: nothing that others could see is half done."""
    os._exit(0)


def run(words: Sequence[str], alone: bool = False) -> int:
    """Do what Wireshark asks for; the exit status is as that of ``wirecap``.

    alone: the process does nothing else, so a capture gives up its rights.
    """
    try:
        _answer(parse(words), alone)
        sys.stdout.flush()
        return 0
    except BaseException as error:
        from wirecap.cli.main import report

        return report(error)


def _answer(asked: Arguments, alone: bool) -> None:
    match asked.call:
        case "help":
            sys.stdout.write(HELP)
        case "interfaces":
            _print(sentences.interfaces())
        case "dlts":
            _print(sentences.link_types(asked))
        case "config":
            _print(sentences.configuration(asked))
        case "filter":
            _print(sentences.wrong_filter(asked))
        case _:
            from wirecap.extcap.capture import capture

            capture(asked, alone)


def _print(lines: Sequence[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
