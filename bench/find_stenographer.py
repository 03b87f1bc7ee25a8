"""Stenographer beside ``wirecap find``: the same traffic, captured by both, and the same connections out of it.

    python bench/find_stenographer.py [--loops 20] [--pps 100k] [--connections 5] [--rounds 5]

Both capture the mixed trace from one end of a veth, one after the other, each time as often as ``--loops`` says, with
other addresses in each pass.  Stenographer answers from a server that runs (its time is that of curl), ``find`` is a
command that starts.  Needs root, curl, openssl and Debian's stenographer; without them it says so and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import WIRECAP, console, mixed_trace, spread
from find import connections
from wirecap.units import format_size, parse_count, parse_packet_rate

TOOLS = ("stenographer", "stenotype", "curl", "openssl", "ip")
SPACE = f"wcsteno{os.getpid()}"
HERE, FAR = f"ws{os.getpid()}", f"wf{os.getpid()}"
PORT, FILE_S, PATIENCE_S = 12345, 10, 120


def run(*command: str, **options: Any) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def inside(*command: str) -> list[str]:
    return ["ip", "netns", "exec", SPACE, *command]


def wait_for(what: Callable[[], object], says: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        if time.monotonic() > end:
            sys.exit(says)
        time.sleep(0.2)


def certificates(folder: Path) -> None:
    """An authority, and a certificate of each side."""
    folder.mkdir()
    authority = "req -x509 -newkey rsa:2048 -nodes -keyout ca_key.pem -out ca_cert.pem -days 2 -subj /CN=ca"
    run("openssl", *authority.split(), cwd=folder)
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    for side in ("server", "client"):
        asked = f"req -newkey rsa:2048 -nodes -keyout {side}_key.pem -out {side}.csr -subj /CN=127.0.0.1"
        run("openssl", *asked.split(), cwd=folder)
        signed = f"x509 -req -in {side}.csr -CA ca_cert.pem -CAkey ca_key.pem -CAcreateserial -days 2 -extfile names"
        run("openssl", *signed.split(), "-out", f"{side}_cert.pem", cwd=folder)


def send(args: argparse.Namespace) -> None:
    options = ["--pps", str(args.pps), "--loop", str(args.loops), "--unique-ip"]
    run(*WIRECAP, "replay", str(mixed_trace()), "-i", FAR, *options)


def theirs(folder: Path, args: argparse.Namespace, wanted: list[str]) -> dict[str, Any]:
    for name in ("packets", "index"):
        (folder / name).mkdir()
    certificates(folder / "certs")
    thread = {"PacketsDirectory": str(folder / "packets"), "IndexDirectory": str(folder / "index"),
              "MaxDirectoryFiles": 30000, "DiskFreePercentage": 1}  # fmt: skip
    flags = ["--seccomp=none", "--blocks=256", f"--fileage_sec={FILE_S}", "--uid=root", "--gid=root"]
    config = {"Threads": [thread], "StenotypePath": shutil.which("stenotype"), "Interface": HERE, "Port": PORT,
              "Host": "127.0.0.1", "Flags": flags, "CertPath": str(folder / "certs")}  # fmt: skip
    (folder / "config").write_text(json.dumps(config))
    log = (folder / "log").open("w")
    server = subprocess.Popen(
        inside("stenographer", f"--config={folder / 'config'}", "--syslog=false"), stderr=log, start_new_session=True
    )
    try:
        wait_for(lambda: server.poll() is not None or list((folder / "packets").glob(".*")), "stenotype does not start")
        if server.poll() is not None:
            sys.exit(f"stenographer does not start here: {(folder / 'log').read_text().splitlines()[-1:]}")
        send(args)
        time.sleep(FILE_S)  # the files of the last packets are complete then
        wait_for(lambda: not any(one.stat().st_size for one in (folder / "packets").glob(".*")), "no file is complete")
        given = [f"--{what}" for what in ("cert", "key", "cacert")]
        keys = [str(folder / "certs" / name) for name in ("client_cert.pem", "client_key.pem", "ca_cert.pem")]
        curl = ["curl", "-sf", *(word for pair in zip(given, keys, strict=True) for word in pair), "-o", "/dev/null"]
        times = []
        for text in wanted:
            asked = text.replace("tcp port", "tcp and port")
            command = inside(*curl, "-d", asked, "-w", "%{time_total}", f"https://127.0.0.1:{PORT}/query")
            run(*command)
            times += [float(run(*command)) for _ in range(args.rounds)]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
        log.close()
    sizes = [sum(one.stat().st_size for one in (folder / name).iterdir()) for name in ("packets", "index")]
    return {"bytes": sizes[0], "index_bytes": sizes[1], "times_s": times}


def ours(folder: Path, args: argparse.Namespace, wanted: list[str]) -> dict[str, Any]:
    ready = folder / "ready"
    command = [*WIRECAP, "capture", "--netns", SPACE, "-i", HERE, "-w", str(folder / "ours.pcapng"), "--index"]
    capture = subprocess.Popen([*command, "--ready-file", str(ready)], stderr=subprocess.DEVNULL)
    try:
        wait_for(ready.exists, "wirecap does not start")
        send(args)
    finally:
        capture.send_signal(signal.SIGINT)
        capture.wait(timeout=PATIENCE_S)
    times = []
    for text in wanted:
        command = [*WIRECAP, "find", "-q", text, str(folder / "ours.pcapng"), "-w", str(folder / "out.pcap")]
        run(*command)
        for _ in range(args.rounds):
            start = time.monotonic()
            run(*command)
            times.append(time.monotonic() - start)
    sizes = [(folder / name).stat().st_size for name in ("ours.pcapng", "ours.pcapng.wcidx")]
    return {"bytes": sizes[0], "index_bytes": sizes[1], "times_s": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=20)
    parser.add_argument("--pps", type=parse_packet_rate, default=100_000)
    parser.add_argument("--connections", type=parse_count, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured as JSON")
    args = parser.parse_args()
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing or os.geteuid():
        console.print(f"skipped: {', '.join(missing) or 'root'} is missing", markup=False)
        return
    wanted = [text for text, _ in connections([mixed_trace()], args.connections, random.Random(3))]
    report = {}
    with tempfile.TemporaryDirectory(prefix="wcbench-") as folder:
        run("ip", "netns", "add", SPACE)
        try:
            run("ip", "link", "add", HERE, "netns", SPACE, "type", "veth", "peer", "name", FAR)
            for command in (inside("ip", "link", "set", "lo", "up"), inside("ip", "link", "set", HERE, "up"),
                            ["ip", "link", "set", FAR, "up"]):  # fmt: skip
                run(*command)
            for name, measure in (("stenographer", theirs), ("wirecap", ours)):
                report[name] = measure(Path(folder), args, wanted)
        finally:
            run("ip", "netns", "del", SPACE)
    for name, found in report.items():
        share = 100 * found["index_bytes"] / found["bytes"]
        times = spread(found["times_s"], "{:.3f}")
        console.print(f"{name}: {format_size(found['bytes'])}, index {share:.2f} %, a connection in {times} s")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
