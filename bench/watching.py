"""What it costs to watch captures: wirecap top's share of a core, and that of the thread that publishes counters.

Two captures of four queues each run while packets arrive.  ``--pictures FOLDER`` draws the pictures of docs/watching.md
in place of that: top.svg is what ``wirecap top`` shows of a capture that offloads and drops, metrics.svg the answers of
a Prometheus that scraped it to the dashboard's queries.

sudo .venv/bin/python bench/watching.py
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import re
import signal
import socket
import statistics
import subprocess
import tempfile
import termios
import threading
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import common
from wirecap.cli.metrics import text
from wirecap.cli.top import Watch
from wirecap.lab import process, testbed
from wirecap.observe.screen import screen

QUEUES = 4
SENSOR = "sensor"
"""The testbed of the pictures, which show its name."""
SETTLE_S = 0.5
VARIABLES = {"$__rate_interval": "3s", "$job": "wirecap", "$instance": ".*", "$interface": ".*"}
SHOWN = ("Packets received", "Packets dropped", "Free chunks of R", "Queue depth of R, and T",
         "Packets offloaded to other queues", "Bytes written")  # fmt: skip
"""The panels in the picture."""


def processor_s(path: Path) -> float:
    """What a process or a thread has used: /proc/PID/stat."""
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads_of(pid: int, name: str) -> list[Path]:
    """The stat files of a process's threads by this name."""
    found = Path(f"/proc/{pid}/task").iterdir()
    return [task / "stat" for task in found if (task / "comm").read_text().strip() == name]


def sending(outside: str, shares: str, pps: str) -> process.Child:
    """Packets that fall into the queues by these shares, until it is ended."""
    queues = ["--queues", f"0-{QUEUES - 1}", "--shares", shares]
    child = process.Child([*common.WIRECAP, "generate", "-i", outside, *queues, "--pps", pps])
    child.wait_for("^wirecap: sending on", 60)
    return child


class Top:
    """``wirecap top`` on a terminal that nobody looks at."""

    def __enter__(self) -> Top:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (50, 140))
        self._process = subprocess.Popen([*common.WIRECAP, "top"], stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self) -> None:
        try:
            while os.read(self._ours, 65536):
                pass
        except OSError:
            pass  # it has ended

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    @property
    def stat(self) -> Path:
        return Path(f"/proc/{self._process.pid}/stat")


def costs(seconds: float, captures: int) -> dict[str, float]:
    """Percent of a core: of ``top``, and of a capture's publisher."""
    bed = testbed.up(common.NAME, queues=QUEUES, nics=captures)
    with ExitStack() as stack:
        running = [stack.enter_context(common.Ours(nic.inside, bed.name)) for nic in bed.nics]
        stack.enter_context(sending(bed.nics[0].outside, "25,25,25,25", "20k"))
        top = stack.enter_context(Top())
        time.sleep(SETTLE_S)
        watched = {"top": [top.stat]}
        watched["publisher"] = [path for each in running for path in threads_of(each.child.pid, "wirecap-publish")]
        before = {name: [processor_s(path) for path in paths] for name, paths in watched.items()}
        begin = time.monotonic()
        time.sleep(seconds)
        taken = time.monotonic() - begin
        used = {name: [processor_s(path) for path in paths] for name, paths in watched.items()}
        return {
            name: 100 / taken * statistics.mean(b - a for a, b in zip(before[name], used[name], strict=True))
            for name in watched
        }


def pictures(folder: Path, seconds: float) -> None:
    """A capture whose first queue gets most packets, for longer than its buddies can help."""
    bed = testbed.up(SENSOR, queues=QUEUES)
    nic, folder = bed.nics[0], folder.absolute()
    ports = free_port(), free_port()
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(chdir(made))
        server = stack.enter_context(prometheus(made, ports[0], ports[1]))
        options = ["--mode", "advanced", "-M", "64", "-R", "50", "-w", "sensor.pcapng", "--limit", "50MB",
                   "-b", "filesize:2000", "--handler", "pkt_handler:rate=2500", "--metrics", str(ports[0])]  # fmt: skip
        stack.enter_context(common.Ours(nic.inside, bed.name, options))
        wait_for(lambda: query(ports[1], "query", query="up == 1")["result"])
        began = time.time()
        stack.enter_context(sending(nic.outside, "70,16,10,4", "12k"))
        watch = Watch(Path("/dev/shm"), (nic.inside,))
        watch.look()
        time.sleep(seconds - 0.5)
        watch.look()
        time.sleep(0.5)
        (folder / "top.svg").write_text(as_svg(watch))
        plot(ports[1], began, time.time(), folder / "metrics.svg")
        assert server.running


def as_svg(watch: Watch) -> str:
    """What the terminal shows, in a font that is there: rich's picture names one on the web."""
    console = Console(record=True, width=140, file=io.StringIO(), highlight=False)
    console.print(screen(watch.look(), watch.problems, "queue", keys=True, width=console.width))
    svg = console.export_svg(title="wirecap top", unique_id="top")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def prometheus(folder: Path, target: int, port: int) -> process.Child:
    (folder / "prometheus.yml").write_text(json.dumps({
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [{"job_name": "wirecap", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
    }))  # fmt: skip
    child = process.Child([
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ])  # fmt: skip
    child.wait_for("Server is ready to receive web requests", 60)
    return child


def query(port: int, path: str, **parameters: str) -> Any:
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)["data"]


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("Prometheus has found no capture")
        time.sleep(0.1)


def plot(port: int, began: float, ended: float, path: Path) -> None:
    """The answers to the dashboard's queries, a panel each."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "wirecap"
    from matplotlib import pyplot

    panels = [panel for panel in json.loads(text("dashboard.json"))["panels"] if panel["title"] in SHOWN]
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 6))
    for panel, axis in zip(panels, axes.flat, strict=True):
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found = query(port, "query_range", query=expression, start=str(began), end=str(ended), step="0.5")
            for series in found["result"]:
                moments = [float(moment) - began for moment, _ in series["values"]]
                label = re.sub(r"\{\{(\w+)\}\}", lambda name, row=series: row["metric"].get(name[1], ""),
                               target["legendFormat"].replace("{{instance}} ", ""))  # fmt: skip
                axis.plot(moments, [float(value) for _, value in series["values"]], label=label.strip())
        axis.set_title(panel["title"], fontsize=10)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.set_xlabel("seconds", fontsize=8)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=6, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round, or before the picture")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--captures", type=int, default=2)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw pictures instead")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    try:
        if args.pictures:
            pictures(args.pictures, args.seconds)
            return
        rounds = [costs(args.seconds, args.captures) for _ in range(args.rounds)]
    finally:
        testbed.down(SENSOR if args.pictures else common.NAME)
    table = Table("of a core", "percent, median (range)")
    for name in rounds[0]:
        table.add_row(name, common.spread((each[name] for each in rounds), "{:.2f}"))
    common.console.print(table)
    if args.json:
        args.json.write_text(json.dumps(rounds))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: exit(1))
    main()
