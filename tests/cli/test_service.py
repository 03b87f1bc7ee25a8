"""``wirecap service``: the unit, as systemd reads it; where it is put, what is refused."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from wirecap.cli import main, unit
from wirecap.linux import capabilities

USER = pwd.getpwuid(1).pw_name
"""Some user who is neither root nor nobody, whom systemd warns of."""


@pytest.fixture
def configured(tmp_path):
    """Writes NAME.toml and returns its path."""

    def write(text, name="eth1"):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return str(path)

    return write


def run(*arguments):
    return main.run(["service", *map(str, arguments)])


def directives(text):
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def shown(capfd, *arguments):
    """The directives of the unit that ``show`` prints."""
    assert run("show", *arguments) == 0
    return directives(capfd.readouterr().out)


def verify(path):
    """What systemd says about a unit."""
    if not (tool := shutil.which("systemd-analyze")):
        pytest.skip("needs systemd-analyze: Debian's package systemd")
    done = subprocess.run([tool, "verify", str(path)], capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout + done.stderr


CONFIGURATIONS = {
    "plain": ('interface = ["eth1"]\nwrite = "x-%Y.pcapng"\nfile-time = "1h"\n', []),
    "netns": ('interface = "eth1"\nnetns = "blue"\nkernel-filter = "drop"\nfilter = "tcp"\n', []),
    "folders": ('interface = "eth1"\nwrite = "{folder}/a b/50%/x.pcapng"\nengine = "packet"\n', ["--user", USER]),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_systemd_finds_nothing_wrong(name, configured, tmp_path, capfd):
    """``systemd-analyze verify`` prints nothing about the unit, and something about one with a mistake in it."""
    text, options = CONFIGURATIONS[name]
    config = configured(text.replace("{folder}", str(tmp_path)))
    assert run("install", "--config", config, "--dir", tmp_path, *options) == 0
    path = tmp_path / "wirecap-eth1.service"
    assert f"{path}: installed; 'systemctl daemon-reload" in capfd.readouterr().out
    assert verify(path) == (0, "")
    path.write_text(path.read_text().replace("AF_XDP", "AF_NONE"))
    assert "AF_NONE" in verify(path)[1]


def test_what_the_unit_says(configured, tmp_path, capfd):
    """Readiness and watchdog, capabilities in place of root, folders of its own; more only for what takes more."""
    config = configured('interface = "eth1"\nwrite = "x.pcapng"\n')
    found = shown(capfd, "--config", config)
    assert found["ExecStart"].endswith(f" capture --quiet --config {config}")
    assert (found["Type"], found["Restart"], found["DynamicUser"]) == ("notify", "on-failure", "yes")
    assert int(found["WatchdogSec"]) == unit.WATCHDOG_S
    needed = " ".join([*capabilities.XDP, "CAP_PERFMON"])
    assert (found["AmbientCapabilities"], found["CapabilityBoundingSet"]) == (needed, needed)
    assert (found["RuntimeDirectory"], found["RuntimeDirectoryMode"]) == ("wirecap-eth1", "0700")
    assert (found["WorkingDirectory"], found["StateDirectory"]) == ("%S/wirecap-eth1", "wirecap-eth1")
    assert (found["ProtectSystem"], found["RestrictNamespaces"]) == ("strict", "yes")
    packet = shown(capfd, "--config", configured('interface = "lo"\nengine = "packet"\n', "lo"), "--name", "a.b")
    assert packet["AmbientCapabilities"] == "CAP_NET_RAW"
    assert packet["StateDirectory"] == "wirecap-a.b"
    more = shown(
        capfd, "--config", configured('interface = "eth1"\nnetns = "blue"\nkernel-filter = "drop"\nfilter = "tcp"\n')
    )
    assert more["AmbientCapabilities"] == f"{needed} CAP_SYS_ADMIN"
    assert more["RestrictNamespaces"] == "net"
    elsewhere = configured('interface = "eth1"\nwrite = "/srv/a b/50%/x.pcapng"\nready-file = "/run/x/y"\n')
    found = shown(capfd, "--config", elsewhere, "--user", USER)
    assert (found["User"], found["ReadWritePaths"]) == (USER, '/run/x "/srv/a b/50%%"')
    assert "DynamicUser" not in found


def test_installed_and_removed(configured, tmp_path, capfd):
    """It is renewed and removed; a unit of somebody else is left alone."""
    config, path = configured('interface = "eth1"\n'), tmp_path / "wirecap-eth1.service"
    for _ in range(2):
        assert run("install", "--config", config, "--dir", tmp_path) == 0
    assert path.stat().st_mode & 0o777 == 0o644
    assert sorted(one.name for one in tmp_path.iterdir()) == ["eth1.toml", path.name]
    assert run("uninstall", "--name", "eth1", "--dir", tmp_path) == 0
    assert not path.exists()
    path.write_text("[Service]\n")
    capfd.readouterr()
    assert run("install", "--config", config, "--dir", tmp_path) == 2
    assert run("uninstall", "--name", "eth1", "--dir", tmp_path) == 2
    assert path.read_text() == "[Service]\n"
    assert capfd.readouterr().err.splitlines() == [
        f"wirecap: {path} exists and was not made by wirecap (choose another --name)",
        f"wirecap: {path} was not made by wirecap (it is left alone)",
    ]


REFUSED = {
    "reads the file x.pcap": ('read = "x.pcap"', []),
    "standard output": ('interface = "eth1"\nwrite = "-"', []),
    "makes files in /srv": ('interface = "eth1"\nwrite = "/srv/x.pcapng"', []),
    "there is no such user": ('interface = "eth1"', ["--user", "nonesuch"]),
    "is not a name for a service": ('interface = "eth1"', ["--name", "a/b"]),
    "unknown key": ("hander = 3", []),
    "nothing to capture from": ("quiet = true", []),
    "no such file": (None, []),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_refused(says, configured, tmp_path, capfd):
    """One line, exit status 2, and no unit."""
    text, options = REFUSED[says]
    config = configured(text) if text else str(tmp_path / "none.toml")
    assert run("install", "--config", config, "--dir", tmp_path, *options) == 2
    line = capfd.readouterr().err
    assert says in line
    assert line.count("\n") == 1
    assert not list(tmp_path.glob("*.service"))


def test_a_folder_that_is_not_there(configured, tmp_path, capfd):
    config = configured('interface = "eth1"')
    assert run("install", "--config", config, "--dir", tmp_path / "none") == 2
    assert run("uninstall", "--name", "eth1", "--dir", tmp_path) == 2
    first, second = capfd.readouterr().err.splitlines()
    assert "no such file or directory (run it as root, or name a folder with --dir)" in first
    assert f"there is no {tmp_path}/wirecap-eth1.service" in second


def test_what_the_user_may_not_read(tmp_path):
    """A file or folder on the way that is closed to others is named, unless the user is."""
    file = tmp_path / "closed" / "x"
    file.parent.mkdir()
    file.touch(0o644)
    steps = {path: path.stat().st_mode for path in (*file.parents, file)}
    open_so_far = all(mode & 0o001 for path, mode in steps.items() if path not in (file, file.parent))
    file.parent.chmod(0o750)
    assert unit.out_of_reach(file, "me") is None
    found = unit.out_of_reach(file, None)
    assert found == file.parent if open_so_far else found in map(Path, steps)


def test_files_that_a_service_would_not_find(configured, tmp_path, monkeypatch, capfd):
    """A handler's file that is named from here on is looked for elsewhere; one that is closed is named."""
    monkeypatch.chdir(tmp_path)
    for name in ("my.py", "closed.py"):
        Path(name).write_text("")
        Path(name).chmod(0o600)
    config = configured(f'interface = "eth1"\nhandler = ["./my.py:f", "{tmp_path}/closed.py:f"]\n')
    assert run("show", "--config", config) == 0
    lines = capfd.readouterr().err.splitlines()
    assert "wirecap: my.py: the service looks for it in /var/lib/wirecap-eth1 (write its full path)" in lines
    assert any(line.startswith(f"wirecap: {tmp_path}/closed.py: the user that systemd makes may not") for line in lines)


def test_a_unit_for_a_capture_that_logs_json(tmp_path, capfd):
    """The command itself goes on in text, whatever its file says of the capture's log."""
    (tmp_path / "eth1.toml").write_text('interface = "eth1"\nlog-format = "json"\n')
    assert main.run(["service", "show", "--config", str(tmp_path / "eth1.toml")]) == 0
    (tmp_path / "eth1.toml").write_text('log-format = "json"\nhander = "count"\n')
    capfd.readouterr()
    assert main.run(["service", "show", "--config", str(tmp_path / "eth1.toml")]) == 2
    assert capfd.readouterr().err.startswith("wirecap: ")
