"""The systemd unit of a capture: systemd.service(5), systemd.exec(5)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wirecap.cli.capture import handler_files
from wirecap.config.capture import CaptureConfig
from wirecap.config.sources import may_run_xdp
from wirecap.linux import capabilities

OURS = "# Made by 'wirecap service install'; 'wirecap service uninstall' removes it."
WATCHDOG_S = 30
HOMES = ("/home", "/root", "/run/user")
TEMPORARY = ("/tmp", "/var/tmp")
HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "LockPersonality": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET AF_XDP",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service bpf",
    "SystemCallErrorNumber": "EPERM",
    "UMask": "0027",
}
"""What a capture does not need.  Not among them: MemoryDenyWriteExecute, since kernels are machine code that is put
into memory, and RestrictRealtime, since capture threads run under SCHED_FIFO."""


@dataclass(frozen=True)
class Service:
    """A capture as a service.  given: the options of its file.  user: who runs it, None for one that systemd makes."""

    name: str
    config_file: Path
    given: Mapping[str, Any]
    capture: CaptureConfig
    user: str | None = None

    @property
    def unit(self) -> str:
        return f"wirecap-{self.name}.service"

    def capabilities(self) -> list[str]:
        """Those of the engine, and what single options take."""
        if may_run_xdp(self.capture.engine):
            # CAP_PERFMON: for timestamps at a quarter of the cost, and kernel filters that use len
            needed = [*capabilities.XDP, "CAP_PERFMON"]
        else:
            needed = list(capabilities.PACKET)
            needed += ["CAP_NET_ADMIN"] * (self.capture.time_stamps == "adapter_unsynced")
        return needed + ["CAP_SYS_ADMIN"] * (self.capture.netns is not None)

    def folders(self) -> list[str]:
        """Where the capture makes files; those in folders without a leading / go into the service's own."""
        names = (self.given[key] for key in ("write_path", "summary_json", "decisions_file", "ready_file", "html_file"))
        return sorted({str(Path(name).parent) for name in names if name and Path(name).is_absolute()})

    def text(self) -> str:
        """The unit file."""
        own = f"wirecap-{self.name}"
        needed = " ".join(self.capabilities())
        command = [*program(), "capture", "--quiet", "--config", str(self.config_file)]
        lines = [
            OURS, "[Unit]", f"Description=WireCAP capture {self.name}", "After=network.target",
            "StartLimitIntervalSec=0", "", "[Service]", "Type=notify", "NotifyAccess=main",
            f"ExecStart={' '.join(map(_quoted, command))}", "ExecReload=kill -HUP $MAINPID",
            f"WatchdogSec={WATCHDOG_S}", "TimeoutStartSec=5min",
            "TimeoutStopSec=2min", "Restart=on-failure", "RestartSec=10", "",
            f"User={self.user}" if self.user else "DynamicUser=yes",
            f"StateDirectory={own}", f"CacheDirectory={own}", f"WorkingDirectory=%S/{own}",
            f"RuntimeDirectory={own}", "RuntimeDirectoryMode=0700",
            f"Environment=WIRECAP_CACHE_DIR=%C/{own}", f"AmbientCapabilities={needed}",
            f"CapabilityBoundingSet={needed}", "LimitMEMLOCK=infinity", "LimitRTPRIO=1", "",
            *(f"{name}={value}" for name, value in self._hardening().items()), "",
            "[Install]", "WantedBy=multi-user.target",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def _hardening(self) -> dict[str, str]:
        paths = [*program()[:1], str(self.config_file), *self.folders(), *self.read_files()]
        chosen = dict(HARDENING)
        chosen["ProtectHome"] = "read-only" if _within(paths, HOMES) else "yes"
        if not _within(paths, TEMPORARY):
            chosen["PrivateTmp"] = "yes"
        chosen["RestrictNamespaces"] = "net" if self.capture.netns else "yes"
        if folders := self.folders():
            chosen["ReadWritePaths"] = " ".join(map(_quoted, folders))
        return chosen

    def read_files(self) -> list[str]:
        """Files that the capture reads, as they were written."""
        names = (self.given[key] for key in ("filter_file", "tls_ca", "tls_cert", "tls_key"))
        return [*filter(None, names), *handler_files(self.capture)]


def program() -> list[str]:
    """The command that runs this wirecap."""
    installed = Path(sys.executable).with_name("wirecap")
    return [str(installed)] if os.access(installed, os.X_OK) else [sys.executable, "-P", "-m", "wirecap"]


def is_missing(path: Path) -> bool:
    """Whether there is no such file; one that we may not look for may be there."""
    try:
        path.stat()
    except PermissionError:
        return False
    except OSError:
        return True
    return False


def out_of_reach(path: Path, user: str | None) -> Path | None:
    """The first folder, or the file itself, that is closed to everybody but its owner's group; None if there is none.

    A user who is named may be in that group, which is not looked up.
    """
    if user is not None:
        return None
    steps = [*reversed(path.parents), path]
    return next((step for step in steps if not step.stat().st_mode & (0o001 if step.is_dir() else 0o004)), None)


def _within(paths: Iterable[str], folders: tuple[str, ...]) -> bool:
    return any(Path(path).is_relative_to(folder) for path in paths for folder in folders)


def _quoted(word: str) -> str:
    """A word of a command line as systemd reads it: % begins a specifier, $ a variable."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if not word or set(word) & set(" \t'\"\\;") else word
