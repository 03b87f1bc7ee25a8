"""Real NATS servers that ask for a login or for TLS: what is in the environment opens them, and is shown nowhere."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet_bench import fleet
from rig import until
from wirecap.cli import main
from wirecap.flows import broker, nats
from wirecap.flows.link import Link

nkeys = pytest.importorskip("nkeys")
SECRET, TOKEN = "only-for-sensors", "tell-nobody"


@pytest.fixture
def broker_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A function that starts a server with some configuration; the environment has no credentials."""
    for name in broker.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    try:
        fleet.nats_server()
    except SystemExit as missing:
        pytest.skip(str(missing))
    servers: list[Any] = []

    def start(config: str, scheme: str = "nats") -> Any:
        server = fleet.Broker(tmp_path / f"broker{len(servers)}", config, scheme)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.kill()


class Key:
    """A pair of keys as NATS has them."""

    def __init__(self, prefix: int) -> None:
        self.seed = nkeys.encode_seed(secrets.token_bytes(32), prefix)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public = self._pair.public_key.decode()

    def token(self, subject: str, **claims: Any) -> str:
        """A JWT about ``subject`` that this key has signed."""
        body = {"jti": subject, "iat": 1_700_000_000, "iss": self.public, "sub": subject,
                "nats": {"version": 2, **claims}}  # fmt: skip
        parts = [_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)]
        return ".".join([*parts, _encoded(self._pair.sign(".".join(parts).encode()))])


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def with_password(folder: Path) -> tuple[str, dict[str, str]]:
    config = f'authorization {{ user: sensor, password: "{SECRET}" }}'
    return config, {"NATS_USER": "sensor", "NATS_PASSWORD": SECRET}


def with_token(folder: Path) -> tuple[str, dict[str, str]]:
    return f'authorization {{ token: "{TOKEN}" }}', {"NATS_TOKEN": TOKEN}


def with_nkey(folder: Path) -> tuple[str, dict[str, str]]:
    key, path = Key(nkeys.PREFIX_BYTE_USER), folder / "sensor.nk"
    path.write_bytes(key.seed)
    return f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}", {"NATS_NKEY": str(path)}


def with_creds(folder: Path) -> tuple[str, dict[str, str]]:
    """An operator, an account of it that may use JetStream, and a user of that in a credentials file."""
    operator, account, user = (
        Key(each) for each in (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER)
    )
    names = ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams",
             "consumer")  # fmt: skip
    limits = dict.fromkeys(names, -1) | {"wildcards": True}
    claims: dict[str, Any] = {"type": "account", "limits": limits, "default_permissions": {"pub": {}, "sub": {}}}
    system = Key(nkeys.PREFIX_BYTE_ACCOUNT)
    nothing = claims | {"limits": limits | dict.fromkeys(("mem_storage", "disk_storage"), 0)}
    accounts = [
        f"{each.public}: {operator.token(each.public, **given)}"
        for each, given in ((account, claims), (system, nothing))
    ]
    allowed = account.token(user.public, type="user", pub={}, sub={}, subs=-1, data=-1, payload=-1)
    path = folder / "sensor.creds"
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{allowed}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    config = f"operator: {operator.token(operator.public, type='operator')}\nresolver: MEMORY\n"
    config += f"system_account: {system.public}\nresolver_preload: {{\n" + "\n".join(accounts) + "\n}\n"
    return config, {"NATS_CREDS": str(path)}


LOGINS = [with_password, with_token, with_nkey, with_creds]


def through(url: str, capture: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """A capture's flows to the broker and from there into a dataset; what ``collect`` says of them."""
    out = folder / "collected.json"
    line = ["capture", "-r", str(capture), "--handler", "flows", "--to", f"{url}/flows.a.b", "--json", "-"]
    assert main.run([*line, "--spool", str(folder / "spool")]) == 0
    way = json.loads(capsys.readouterr().out)["handlers"][0]["result"]["brokers"][f"{url}/flows.a.b"]
    assert way == {"acknowledged": 1, "spooled": 0}
    pattern = str(folder / "flows" / "%H.parquet")
    assert main.run(["collect", f"{url}/flows.>", "-w", pattern, "--once", "--json", str(out)]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("login", LOGINS)
def test_logins(login, broker_with, two_packets, tmp_path, monkeypatch, capsys):
    """Records, counters and triggers come through with the credentials of the environment; without them nothing does,
    and the line says what to set."""
    config, environment = login(tmp_path)
    server = broker_with(config)
    assert main.run(["collect", f"{server.url}/flows.>", "-w", f"{tmp_path}/x.parquet", "--once"]) == 1
    (*_, said) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"wirecap: {server.url}: ")
    assert "authorization violation" in said
    assert "set NATS_CREDS" in said
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert through(server.url, two_packets, tmp_path, capsys)["records"] == 1
    fired: list[str] = []
    link = Link(f"{server.url}/flows.a.b", dict, fired.append)
    asked: list[int] = []

    def answered() -> bool:
        asked.append(main.run(["trigger", "alarm", "--to", f"{server.url}/triggers.a"]))
        return asked[-1] == 0

    link.start()
    try:
        until(answered, 100)
    finally:
        link.end()
    assert set(fired) == {"alarm"}
    assert len(fired) <= len(asked)  # an answer may come when nobody waits for it any more
    assert capsys.readouterr().out == "flows.a.b saves what it keeps\n"


def test_secrets_are_shown_nowhere(broker_with, two_packets, tmp_path, monkeypatch, capfd):
    """Neither the right password nor a wrong one stands in what is printed, or in a file."""
    config, environment = with_password(tmp_path)
    server = broker_with(config)
    for value, last_s in ((SECRET, 60.0), ("mistyped-secret", 3.0)):
        monkeypatch.setattr(nats, "LAST_S", last_s)
        folder = tmp_path / value.partition("-")[0]
        folder.mkdir()
        for name, given in (environment | {"NATS_PASSWORD": value}).items():
            monkeypatch.setenv(name, given)
        target, summary = f"{server.url}/flows.a.b", str(folder / "summary.json")
        line = ["capture", "-r", str(two_packets), "--handler", "flows", "--to", target, "--json", summary]
        assert main.run([*line, "--spool", str(folder / "spool")]) == 0
        line = ["collect", f"{server.url}/flows.>", "-w", f"{folder}/flows/%H.parquet", "--once"]
        assert main.run(line) == (value != SECRET)
        assert main.run(["trigger", "--to", f"{server.url}/triggers"]) == 1
        way = json.loads(Path(summary).read_text())["handlers"][0]["result"]["brokers"][target]
        assert ("authorization violation" in way.get("trouble", "")) is (value != SECRET)
        written = capfd.readouterr()
        assert value not in written.out + written.err
        for path in folder.rglob("*"):
            assert not path.is_file() or value.encode() not in path.read_bytes()


def test_tls(broker_with, certificates, two_packets, tmp_path, monkeypatch, capsys):
    """A broker that wants a certificate and a password: who does not trust it, or is not trusted, learns why."""
    config = (
        f'tls {{ cert_file: "{certificates["server.pem"]}", key_file: "{certificates["server.key"]}",'
        f' ca_file: "{certificates["ca.pem"]}", verify: true }}\n' + with_password(tmp_path)[0]
    )
    server = broker_with(config, "nats+tls")
    monkeypatch.setenv("NATS_USER", "sensor")
    monkeypatch.setenv("NATS_PASSWORD", SECRET)
    collect = ["collect", f"{server.url}/flows.>", "-w", f"{tmp_path}/x.parquet", "--once"]
    assert main.run(collect) == 1
    assert "certificate verify failed" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setenv("NATS_CA", certificates["ca.pem"])
    assert main.run(collect) == 1
    assert "a broker may ask for NATS_CERT" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setenv("NATS_CERT", certificates["client.pem"])
    monkeypatch.setenv("NATS_KEY", certificates["client.key"])
    assert through(server.url, two_packets, tmp_path, capsys)["records"] == 1


def test_a_password_never_goes_unencrypted(broker_with, certificates, tmp_path, monkeypatch, capsys):
    """``nats+tls://`` and a server without TLS: no login is sent."""
    server = broker_with(with_password(tmp_path)[0], "nats+tls")
    for name, value in {"NATS_USER": "sensor", "NATS_PASSWORD": SECRET, "NATS_CA": certificates["ca.pem"]}.items():
        monkeypatch.setenv(name, value)
    assert main.run(["collect", f"{server.url}/flows.>", "-w", f"{tmp_path}/x.parquet", "--once"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the server does not speak tls" in said
    assert SECRET not in said
