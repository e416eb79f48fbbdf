"""A zoo of one's own, and an https server on loopback that answers as a test says."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from lightning_ae.zoo import index

BASE = "linear_mlp.digits_v1"
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """`answers` maps a path to bytes, or to a function that answers; `asked` lists the paths that were asked for."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers: dict[str, bytes | Answer] = {}
        self.asked: list[str] = []


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            answer = found.answers.get(self.path)
            if answer is None:
                self.send_error(404)
            elif callable(answer):
                answer(self)
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    certificates = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(certificates))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    found = Server(f"https://localhost:{http.server_port}")
    yield found
    http.shutdown()
    http.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; no mirror, not offline."""
    monkeypatch.setenv("LIGHTNING_AE_CACHE", str(tmp_path / "cache"))
    for name in ("LIGHTNING_AE_MIRROR", "LIGHTNING_AE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "zoo"


@pytest.fixture
def in_time() -> Callable[..., Any]:
    """in_time(work): what `work()` gives, in a thread that is left behind, so that a test of what hangs fails."""

    def run(work: Callable[[], Any], seconds: float = 20) -> Any:
        done: Future[Any] = Future()

        def call() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=call, daemon=True).start()
        return done.result(seconds)

    return run


@pytest.fixture
def weights() -> bytes:
    """The weights of the entry that `remote` makes."""
    return (index.zoo_folder() / "weights" / BASE / "model.safetensors").read_bytes()


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[..., str]:
    """remote(*urls): a zoo with one entry, which is not bundled and whose weights lie at those addresses; its name."""
    entry = yaml.safe_load((index.zoo_folder() / "entries" / f"{BASE}.yaml").read_text())
    folder = tmp_path / "zoo"

    def make(*urls: str, name: str = "linear_mlp.digits_v2") -> str:
        entry["name"] = name
        entry["files"] = [file | {"urls": list(urls)} for file in entry["files"] if file["name"] == "model.safetensors"]
        (folder / "entries").mkdir(parents=True, exist_ok=True)
        (folder / "entries" / f"{name}.yaml").write_text(yaml.safe_dump(entry))
        monkeypatch.setattr(index, "zoo_folder", lambda: folder)
        index.read_entry.cache_clear()
        return name

    return make
