"""``wirecap wireshark install`` and ``uninstall`` with what several versions of Wireshark say of their folders."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from wirecap.cli.main import run
from wirecap.lab import process

FOLDERS = {
    "4.0.17": "Personal configuration:\t{home}/.config/wireshark\nExtcap path:         \t{everybody}\n",
    "4.2.5": "Personal Extcap path:\t{home}/.local/lib/wireshark/extcap\nGlobal Extcap path:\t{everybody}\n",
    "4.6.0": "Personal Extcap path:\t{home}/.local/lib/wireshark/extcap\nGlobal Extcap path:\t{everybody}\n",
}
USER = {"4.0.17": ".config/wireshark/extcap", "4.2.5": ".local/lib/wireshark/extcap"}
USER["4.6.0"] = USER["4.2.5"]
EVERYBODY = {"4.0.17": "usr/lib/x86_64-linux-gnu/wireshark/extcap", "4.2.5": "usr/lib/wireshark/extcap"}
EVERYBODY["4.6.0"] = "usr/libexec/wireshark/extcap"


@pytest.fixture(params=list(FOLDERS))
def version(request, tmp_path, monkeypatch) -> str:
    """A tshark on the PATH that says where its folders are; the only one."""
    folders = FOLDERS[request.param].format(home=tmp_path, everybody=tmp_path / EVERYBODY[request.param])
    fake = tmp_path / "bin" / "tshark"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\necho "Running as user root." >&2\n'
        f'[ "$1" = -G ] && printf "%s" "{folders}" || echo "TShark (Wireshark) {request.param}."\n'
    )
    fake.chmod(0o755)
    monkeypatch.setattr(process, "TOOLS_PATH", str(fake.parent))
    return request.param


def test_there_and_back(version, tmp_path, capsys):
    """Installed in the folder that this Wireshark has, renewed, started by Wireshark's call, and removed."""
    for place, folder in [("--user", USER[version]), ("--global", EVERYBODY[version])]:
        path = tmp_path / folder / "wirecap-extcap"
        for _ in range(2):
            assert run(["wireshark", "install", place]) == 0
            assert f"{path}: installed for TShark (Wireshark) {version}:" in capsys.readouterr().out
        assert [file.name for file in path.parent.iterdir()] == ["wirecap-extcap"]
        done = subprocess.run([path, "--extcap-interfaces"], capture_output=True, text=True, timeout=60, check=True)
        assert "{value=wirecap-any}" in done.stdout
    assert run(["wireshark", "uninstall"]) == 0
    assert capsys.readouterr().out.count(": removed\n") == 2
    assert not path.exists()
    assert run(["wireshark", "uninstall"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("not installed: ")
    assert out.count("\n") == 1


def test_where_by_default(version, tmp_path, capsys, monkeypatch):
    """Root installs for everybody, others for themselves."""
    for user, folder in [(0, EVERYBODY[version]), (1000, USER[version])]:
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert run(["wireshark", "install"]) == 0
        assert str(tmp_path / folder) in capsys.readouterr().out


@pytest.mark.parametrize("version", ["4.2.5"], indirect=True)
@pytest.mark.parametrize("foreign", ["file", "folder", "link"])
def test_a_foreign_file_stays(version, tmp_path, capsys, foreign):
    """What somebody else put there is neither replaced nor removed."""
    path = tmp_path / USER[version] / "wirecap-extcap"
    path.parent.mkdir(parents=True)
    if foreign == "file":
        path.write_text("#!/bin/sh\n")
    elif foreign == "folder":
        path.mkdir()
    else:
        path.symlink_to("/nonexistent/x")
    for command in ("install", "uninstall"):
        assert run(["wireshark", command, "--user"]) == 2
        error = capsys.readouterr().err
        assert f"{path} " in error
        assert "not made by wirecap" in error
        assert error.count("\n") == 1
    assert os.path.lexists(path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("install", "Wireshark is not installed here"),
        ("uninstall", "Wireshark is not installed here"),
        ("install --program /bin/echo", "/bin/echo -G folders names no extcap folder"),
        ("install --program nosuchshark", "nosuchshark: no such program"),
        ("install --folder nosuchfolder", "nosuchfolder: no such folder"),
        ("install --folder /dev/null", "/dev/null: no such folder"),
        ("install --folder /proc", "/proc/wirecap-extcap: "),
        ("uninstall --folder . --user", "--folder already says where"),
    ],
)
def test_refusals(arguments, says, tmp_path, monkeypatch, capsys):
    """Status 2 and one line."""
    monkeypatch.setattr(process, "TOOLS_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run(["wireshark", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_named_folder(tmp_path, capsys):
    """--folder needs no Wireshark."""
    assert run(["wireshark", "install", "--folder", str(tmp_path)]) == 0
    assert os.access(tmp_path / "wirecap-extcap", os.X_OK)
    assert run(["wireshark", "uninstall", "--folder", str(tmp_path)]) == 0
    assert list(Path(tmp_path).iterdir()) == []
