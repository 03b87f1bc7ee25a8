"""``wirecap serve``: pcap over IP, for clients that filter each for themselves."""

from __future__ import annotations

from typing import Any

import click

from wirecap.cli import closing, config_file, listing, options
from wirecap.cli.config_file import Configurable
from wirecap.cli.options import COUNT, PRINTING, SIZE, WRITING, Parsed, refused, section
from wirecap.config import capture as config
from wirecap.config.capture import CaptureConfig
from wirecap.config.endpoint import Endpoint
from wirecap.config.serve import PORT, ServeConfig, parse_network
from wirecap.config.sources import engine_names
from wirecap.config.specs import HandlerSpec, QueueSpec
from wirecap.errors import UsageError
from wirecap.units import parse_size

HELP = f"""Serve what is captured as pcap over IP.

Whoever connects gets pcapng: tshark -i TCP@HOST:{PORT}, nc HOST {PORT} | tcpdump -r -, or
wirecap capture -i pcap-over-ip://HOST:{PORT}. A client that sends a line at once gets what that filter lets through.
One that is too slow loses packets of its own, which are counted for it; no other client does, nor the capture.
FILTER is for all clients.

\b
  wirecap serve eth1
  wirecap serve eth1 --listen 127.0.0.1:{PORT} not port 22
  wirecap serve eth1@0-3 -i eth2 --listen 0.0.0.0:{PORT} --tls-cert cert.pem --tls-key key.pem --tls-client-ca ca.pem
"""

source = section("What to capture")
door = section("Whom to serve")
engine = section("How")


def _snaplen(text: str) -> int:
    return parse_size(text) or config.MAX_SNAPLEN


@click.command(cls=Configurable, checks=lambda given: _settings(given), help=HELP)
@source("-i", "--interface", "sources", multiple=True, type=Parsed("INTERFACE", QueueSpec.parse),
        help="Another interface; repeatable.")  # fmt: skip
@source(
    "-s", "--snapshot-length", "snaplen", type=Parsed("BYTES", _snaplen), help="Keep this much of a packet; 0: all."
)
@source("-Q", "--direction", type=click.Choice(config.DIRECTIONS),
        help="Incoming packets, outgoing ones, or both; AF_XDP sees only incoming ones.")  # fmt: skip
@source("-j", "--time-stamp-type", "time_stamps", type=click.Choice(config.TIME_STAMPS), default="host",
        show_default=True, help="How packets are timestamped: see capture.")  # fmt: skip
@door("--listen", type=Parsed("[HOST:]PORT", Endpoint.parse), default=f"127.0.0.1:{PORT}", show_default=True,
      help="Where clients connect; 0.0.0.0:PORT is for all hosts.")  # fmt: skip
@door("--tls-cert", metavar="FILE", help="Encrypt, with this server certificate (PEM).")
@door("--tls-key", metavar="FILE", help="The certificate's key, if it is in another file.")
@door("--tls-client-ca", metavar="FILE", help="Serve only clients with a certificate from these authorities.")
@door("--allow", multiple=True, type=Parsed("NETWORK", parse_network), help="Serve only these networks; repeatable.")
@door(
    "--max-clients",
    "clients",
    type=COUNT,
    default=32,
    show_default=True,
    help="Serve at most this many clients at once.",
)
@door("--client-buffer", "client_buffer", type=SIZE, default=64 << 20,
      help="How far behind a client may fall.  [default: 64MiB]")  # fmt: skip
@engine("--engine", type=click.Choice(engine_names()), default="auto", show_default=True,
        help="xdp: AF_XDP, for capture ports. packet: TPACKET_V3, for the host's own traffic.")  # fmt: skip
@engine("--ring", "ring_cells", type=COUNT,
        help="xdp: cells attached to a queue [16384]; packet: packets; direct: descriptors [1024].")  # fmt: skip
@engine("--fanout", type=click.Choice(config.FANOUTS),
        help="How the packet engine chooses a queue: by flow [default], CPU, NIC queue, or at random.")  # fmt: skip
@engine("--defrag", is_flag=True,
        help="packet: the kernel puts IPv4 datagrams together; fragments come to their flow's queue.")  # fmt: skip
@options.options(source, engine)
@refused(*WRITING, message="serve writes no file",
         hint="a client does: wirecap capture -i pcap-over-ip://HOST -w FILE")  # fmt: skip
@refused(*PRINTING, message="serve shows no packets",
         hint="a client does: wirecap capture -i pcap-over-ip://HOST --print")  # fmt: skip
@config_file.options(source, section("Instead of serving"))
@options.argument("words", nargs=-1, metavar="INTERFACE [FILTER]...")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    as_given, checking = dict(given), config_file.check_is_asked(given)
    capture = _settings(given)
    if checking:
        config_file.tell_checked(given, capture.filter)
        return
    reload = config_file.reloader(ctx, as_given, lambda now: (_settings(now), None))
    closing.run(given, capture, reload=reload)


def _settings(given: dict[str, Any]) -> CaptureConfig:
    """What the options say.  Raises UsageError."""
    sources, words = given["sources"], given["words"]
    if words:  # the first is an interface, and one more than those of -i
        sources, words = (QueueSpec.parse(words[0]), *sources), words[1:]
    if not sources:
        raise UsageError("nothing to serve", "name an interface: wirecap serve eth1")
    if given["filter_text"] is not None and words:
        raise UsageError("the filter is given twice", "use either -f or trailing words")
    given |= {"handlers": (HandlerSpec("serve"),), "keep_going": False}
    given["buddies"] = tuple(listing.by_own_name(group, given["netns"]) for group in given["buddies"])
    return CaptureConfig(
        sources=listing.by_own_name(sources, given["netns"], "-i"),
        filter=(given["filter_text"] or " ".join(words)).strip(),
        duration_ns=given["duration_ns"],
        count=given["count"],
        snaplen=given["snaplen"] or config.MAX_SNAPLEN,
        time_stamps=given["time_stamps"],
        fanout=given["fanout"],
        defrag=given["defrag"],
        direction=given["direction"],
        serve=ServeConfig(
            listen=given["listen"], tls_cert=given["tls_cert"], tls_key=given["tls_key"],
            tls_client_ca=given["tls_client_ca"], buffer=given["client_buffer"], clients=given["clients"],
            allow=given["allow"],
        ),
        **options.config_of(given),
    )  # fmt: skip
