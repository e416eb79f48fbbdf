"""Files from hostile places: nothing but the right bytes is used or kept."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from lightning_ae import InputError, zoo
from lightning_ae.zoo import fetch as fetching
from lightning_ae.zoo import index
from lightning_ae.zoo.fetch import IntegrityError, fetch

Remote = Callable[..., str]


def get(name: str) -> bytes:
    entry = zoo.info(name)
    return fetch(entry, entry.file("model.safetensors"))


def kept(cache: Path) -> list[str]:
    return [file.name for file in cache.iterdir() if file.suffix != ".lock"] if cache.is_dir() else []


def test_fetched_once_then_cached(remote: Remote, server: Any, weights: bytes, cache: Path) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w")
    assert get(name) == weights
    assert get(name) == weights
    assert server.asked == ["/w"]
    assert kept(cache) == [zoo.info(name).file("model.safetensors").sha256]
    assert zoo.load(name).latent_dim == 8


@pytest.mark.parametrize("spoil", ["other", "truncated", "longer", "missing"])
def test_the_next_address_is_tried(remote: Remote, server: Any, weights: bytes, cache: Path, spoil: str) -> None:
    flipped = bytes([weights[0] ^ 1]) + weights[1:]
    bad = {"other": flipped, "truncated": weights[:-7], "longer": weights + b"x"}
    if spoil in bad:
        server.answers["/bad"] = bad[spoil]
    server.answers["/good"] = weights
    assert get(remote(f"{server.address}/bad", f"{server.address}/good")) == weights
    assert server.asked == ["/bad", "/good"]


@pytest.mark.parametrize("spoil", ["other", "truncated", "longer"])
def test_no_right_file(remote: Remote, server: Any, weights: bytes, cache: Path, spoil: str) -> None:
    flipped = weights[:-1] + bytes([weights[-1] ^ 1])
    server.answers["/bad"] = {"other": flipped, "truncated": weights[:-7], "longer": weights + b"x"}[spoil]
    with pytest.raises(IntegrityError, match="linear_mlp.digits_v2 cannot be had"):
        get(remote(f"{server.address}/bad"))
    assert kept(cache) == []


def test_cut_off_in_the_middle(remote: Remote, server: Any, weights: bytes, cache: Path) -> None:
    def cut(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(weights)))
        request.end_headers()
        request.wfile.write(weights[:100])

    server.answers["/cut"] = cut
    with pytest.raises(InputError, match="cannot be had"):
        get(remote(f"{server.address}/cut"))
    assert kept(cache) == []


def test_endless_answer_is_bounded(remote: Remote, server: Any, cache: Path) -> None:
    sent = 0

    def endless(request: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        request.send_response(200)
        request.end_headers()
        try:
            while sent < 1 << 30:
                request.wfile.write(b"x" * (1 << 20))
                sent += 1 << 20
        except OSError:
            pass

    server.answers["/endless"] = endless
    with pytest.raises(IntegrityError, match="more bytes than the entry says"):
        get(remote(f"{server.address}/endless"))
    assert sent < 1 << 28
    assert kept(cache) == []


def test_a_flipped_bit_in_the_cache(remote: Remote, server: Any, weights: bytes, cache: Path) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w")
    get(name)
    (file,) = (cache / name for name in kept(cache))
    file.write_bytes(weights[:50] + bytes([weights[50] ^ 4]) + weights[51:])
    with pytest.warns(UserWarning, match="is damaged, and is fetched again"):
        assert get(name) == weights
    assert file.read_bytes() == weights
    assert len(server.asked) == 2


def test_a_link_in_the_cache_is_not_followed(
    remote: Remote, server: Any, weights: bytes, cache: Path, tmp_path: Path
) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w")
    target = tmp_path / "elsewhere"
    target.write_bytes(weights)
    cache.mkdir(parents=True)
    file = cache / zoo.info(name).file("model.safetensors").sha256
    file.symlink_to(target)
    with pytest.warns(UserWarning, match="symbolic link"):
        assert get(name) == weights
    assert server.asked == ["/w"]
    assert not file.is_symlink()
    assert target.read_bytes() == weights


@pytest.mark.parametrize("scheme", ["file", "http", "ftp"])
def test_redirects_elsewhere_are_refused(
    remote: Remote, server: Any, cache: Path, tmp_path: Path, weights: bytes, scheme: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(weights)
    target = {"file": secret.as_uri(), "http": f"http://localhost{secret}", "ftp": f"ftp://localhost{secret}"}[scheme]

    def redirect(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", target)
        request.end_headers()

    server.answers["/r"] = redirect
    with pytest.raises(InputError, match="redirects: .* is not an https address"):
        get(remote(f"{server.address}/r"))
    assert kept(cache) == []


def test_redirects_to_https_are_followed(remote: Remote, server: Any, cache: Path, weights: bytes) -> None:
    def redirect(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", "/w")
        request.end_headers()

    server.answers |= {"/r": redirect, "/w": weights}
    assert get(remote(f"{server.address}/r")) == weights


def test_an_unknown_authority_is_refused(
    remote: Remote, server: Any, weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/w"] = weights
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(InputError, match="SSL"):
        get(remote(f"{server.address}/w"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://localhost/w", "not an https address"),
        ("file:///etc/passwd", "not an https address"),
        ("https://user:word@localhost/w", "holds credentials"),
        ("hf://org/repo@main/w.safetensors", "not pinned"),
        ("hf://org/repo/w.safetensors", "not pinned"),
        (f"hf://org/repo@{'a' * 40}", "names no file"),
    ],
)
def test_addresses_that_no_entry_may_have(remote: Remote, url: str, reason: str) -> None:
    name = remote(url)
    with pytest.raises(InputError, match=reason) as caught:
        zoo.info(name)
    assert "word@" not in str(caught.value)


@pytest.mark.parametrize(
    "file",
    ["../model.safetensors", "/etc/passwd", "C:\\w.bin", "C:w.bin", ".bashrc", "a/b.bin", "a\\b.bin", "w", "-.."],
)
def test_file_names_that_lead_elsewhere(remote: Remote, file: str) -> None:
    name = remote("https://localhost/w")
    place = index.zoo_folder() / "entries" / f"{name}.yaml"
    place.write_text(place.read_text().replace("model.safetensors", f"'{file}'"))
    with pytest.raises(InputError, match=r"files\.0\.name"):
        zoo.info(name)


@pytest.mark.parametrize("name", ["../linear_mlp.digits_v1", "/etc/passwd", ".hidden", "C:\\x", "entries/x"])
def test_entry_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(InputError, match="unknown zoo entry"):
        zoo.info(name)


def test_network_down(remote: Remote, server: Any, weights: bytes, cache: Path) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w")
    get(name)
    other = remote("https://localhost:1/w")  # nothing listens there
    assert get(other) == weights  # the same hash: in the cache
    (cache / kept(cache)[0]).unlink()
    with pytest.raises(InputError, match="ConnectionError"):
        get(other)


@pytest.mark.parametrize("variable", ["LIGHTNING_AE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(
    remote: Remote, server: Any, weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w")
    monkeypatch.setenv(variable, "1")
    with pytest.raises(InputError, match=f"{variable} forbids fetching"):
        get(name)
    monkeypatch.delenv(variable)
    get(name)
    monkeypatch.setenv(variable, "1")
    assert get(name) == weights
    assert server.asked == ["/w"]


def test_bundled_entries_need_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_AE_OFFLINE", "1")
    assert zoo.load("vae_mlp.digits_v1").latent_dim == 8
    assert not cache.exists()


def test_a_cache_that_cannot_be_written(
    remote: Remote, server: Any, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w")
    (tmp_path / "file").write_text("no folder")  # root may write to any folder, but not below a file
    monkeypatch.setenv("LIGHTNING_AE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written"):
        get(name)
    assert server.asked == []


def test_a_read_only_cache_serves_what_it_has(
    remote: Remote, server: Any, weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w")
    get(name)

    def read_only(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")  # the superuser may write to any folder on a writable one

    monkeypatch.setattr(fetching, "FileLock", read_only)
    monkeypatch.setattr(fetching.tempfile, "mkdtemp", read_only)
    assert get(name) == weights
    (cache / kept(cache)[0]).unlink()
    with pytest.raises(InputError, match="cannot be written: Read-only file system"):
        get(name)


def test_a_full_disk(remote: Remote, server: Any, weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w", f"{server.address}/w")

    def full(self: Any, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching._Bounded, "write", full)
    with pytest.raises(InputError, match="the disk is full: .* nothing was kept"):
        get(name)
    assert kept(cache) == []


def test_a_local_mirror(
    remote: Remote, tmp_path: Path, weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = remote("https://localhost:1/w")
    mirror = tmp_path / "mirror" / name
    mirror.mkdir(parents=True)
    (mirror / "model.safetensors").write_bytes(weights)
    monkeypatch.setenv("LIGHTNING_AE_MIRROR", str(tmp_path / "mirror"))
    assert get(name) == weights
    (mirror / "model.safetensors").write_bytes(weights[::-1])
    with pytest.raises(IntegrityError, match="another hash"):
        get(name)


def test_a_mirror_on_the_network(
    remote: Remote, server: Any, weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    server.answers |= {"/m/a/w": weights, f"/m/org/repo/resolve/{commit}/w.safetensors": weights}
    monkeypatch.setenv("LIGHTNING_AE_MIRROR", f"{server.address}/m")
    assert get(remote("https://example.invalid/a/w")) == weights
    (cache / kept(cache)[0]).unlink()
    assert get(remote(f"hf://org/repo@{commit}/w.safetensors")) == weights
    (cache / kept(cache)[0]).unlink()
    server.answers["/m/a/w"] = weights[::-1]
    with pytest.raises(IntegrityError):
        get(remote("https://example.invalid/a/w"))
    monkeypatch.setenv("LIGHTNING_AE_MIRROR", "http://localhost/m")
    with pytest.raises(InputError, match="not an https address"):
        get(remote("https://example.invalid/a/w"))


def test_download_makes_a_mirror(tmp_path: Path, cache: Path) -> None:
    (folder,) = zoo.download(["linear_mlp.digits_v1"], tmp_path / "copies")
    assert folder == tmp_path / "copies" / "linear_mlp.digits_v1"
    assert zoo.load(folder).latent_dim == 8
    for file in zoo.info("linear_mlp.digits_v1").files:
        assert (folder / file.name).stat().st_size == file.size


@pytest.mark.slow
def test_eight_processes_make_one_download(remote: Remote, server: Any, weights: bytes, cache: Path) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w")
    program = (
        "import sys, pathlib\n"
        "from lightning_ae.zoo import index, load\n"
        "index.zoo_folder = lambda: pathlib.Path(sys.argv[1])\n"
        "print(load(sys.argv[2]).latent_dim)\n"
    )
    words = [sys.executable, "-c", program, str(index.zoo_folder()), name]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    for process in running:
        output, errors = process.communicate(timeout=300)
        assert output == "8\n", errors
    assert server.asked == ["/w"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> Any:
    """A hub of one commit on loopback; its files, by name."""
    import huggingface_hub.constants as constants

    files: dict[str, bytes] = {}
    commit = "0123456789" * 4

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            data = files.get(self.path.removeprefix(f"/org/repo/resolve/{commit}/"))
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.send_header("ETag", f'"{hash(data)}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(files.get(self.path.removeprefix(f"/org/repo/resolve/{commit}/"), b""))

        def log_message(self, *args: Any) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{http.server_port}")
    template = f"http://127.0.0.1:{http.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield files, f"hf://org/repo@{commit}"
    http.shutdown()
    http.server_close()


def test_the_hub(hub: Any, remote: Remote, weights: bytes, cache: Path) -> None:
    files, place = hub
    folder = index.zoo_folder() / "weights" / "linear_mlp.digits_v1"
    files |= {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert zoo.load(place).latent_dim == 8
        assert get(remote(f"{place}/model.safetensors")) == weights
        assert kept(cache) == [zoo.info("linear_mlp.digits_v2").file("model.safetensors").sha256]
        with pytest.raises(InputError, match="cannot be fetched"):
            zoo.load(place.replace("repo", "other"))
    with pytest.raises(InputError, match="not pinned"):
        zoo.load("hf://org/repo@main")


def test_a_deprecated_entry_says_so(remote: Remote, server: Any, weights: bytes) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w")
    place = index.zoo_folder() / "entries" / f"{name}.yaml"
    place.write_text(place.read_text().replace("deprecated: null", "deprecated: use another"))
    with pytest.warns(FutureWarning, match="is deprecated: use another"):
        zoo.load(name)


# ---- places that are no plain files ----------------------------------------------------------------------------------


@pytest.fixture
def mirror(weights: bytes, remote: Remote, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a local mirror has the weights of the entry that `remote` makes."""
    name = remote()
    place = tmp_path / "mirror" / name / "model.safetensors"
    place.parent.mkdir(parents=True)
    monkeypatch.setenv("LIGHTNING_AE_MIRROR", str(tmp_path / "mirror"))
    return place


def sparse(place: Path, size: int = 200 << 30) -> None:
    with open(place, "wb") as file:
        file.truncate(size)


NO_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pipe": (os.mkfifo, "is no plain file"),
    "folder": (Path.mkdir, "is no plain file"),
    "device": (lambda place: place.symlink_to("/dev/zero"), "is no plain file"),
    "terminal": (lambda place: place.symlink_to("/dev/tty"), "is no plain file|cannot be read"),
    "loop": (lambda place: place.symlink_to(place.name), "cannot be read"),
    "sparse": (sparse, "has 214748364800 bytes instead of"),
}


def test_a_mirror_of_links_as_a_snapshot_of_the_hub_is(mirror: Path, tmp_path: Path, weights: bytes) -> None:
    blob = tmp_path / "mirror" / "blobs" / "0123"
    blob.parent.mkdir()
    blob.write_bytes(weights)
    mirror.symlink_to(Path("../blobs/0123"))
    assert get(mirror.parent.name) == weights
    blob.write_bytes(weights[::-1])
    with pytest.raises(IntegrityError, match="another hash"):
        get(mirror.parent.name)


@pytest.mark.parametrize("kind", NO_FILES)
def test_no_plain_file_in_a_mirror(mirror: Path, kind: str, in_time: Any) -> None:
    make, reason = NO_FILES[kind]
    make(mirror)
    with pytest.raises(InputError, match=reason):
        in_time(lambda: get(mirror.parent.name))


@pytest.mark.parametrize("kind", ["pipe", "sparse"])
def test_no_plain_file_in_the_cache(
    remote: Remote, server: Any, weights: bytes, cache: Path, kind: str, in_time: Any
) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w")
    cache.mkdir(parents=True)
    NO_FILES[kind][0](cache / zoo.info(name).file("model.safetensors").sha256)
    with pytest.warns(UserWarning, match="is no plain file|is damaged"):
        assert in_time(lambda: get(name)) == weights


def test_offline_says_what_is_wrong_with_the_mirror(
    remote: Remote, mirror: Path, monkeypatch: pytest.MonkeyPatch, in_time: Any
) -> None:
    name = remote("https://localhost/w")
    os.mkfifo(mirror)
    monkeypatch.setenv("LIGHTNING_AE_OFFLINE", "1")
    with pytest.raises(InputError, match="forbids fetching it; .* is no plain file"):
        in_time(lambda: get(name))


# ---- servers that take their time ------------------------------------------------------------------------------------


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads may take a second."""
    monkeypatch.setattr(fetching, "GRACE", 1)
    monkeypatch.setattr(fetching, "SLOWEST", 1 << 30)


def dribble(request: BaseHTTPRequestHandler, start: bytes, chunk: bytes) -> None:
    """Answers with `start`, and then with `chunk` ten times a second for ten seconds."""
    with suppress(OSError):
        request.wfile.write(start)
        for _ in range(100):
            request.wfile.write(chunk)
            request.wfile.flush()
            time.sleep(0.1)


SLOW = {
    "body": (b"HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "headers": (b"HTTP/1.0 200 OK\r\n", b"A: b\r\n"),
    "one header": (b"HTTP/1.0 200 OK\r\nA: ", b"b"),
    "status": (b"HTTP/1.0 200 ", b"O"),
}


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("part", SLOW)
def test_a_slow_server_is_given_up(
    remote: Remote, server: Any, weights: bytes, cache: Path, part: str, in_time: Any
) -> None:
    server.answers |= {"/slow": lambda request: dribble(request, *SLOW[part]), "/w": weights}
    with pytest.raises(InputError, match=r"/slow has not come within 1 s"):
        in_time(lambda: get(remote(f"{server.address}/slow")))
    assert kept(cache) == []
    assert in_time(lambda: get(remote(f"{server.address}/slow", f"{server.address}/w"))) == weights


@pytest.mark.usefixtures("hurry")
def test_redirects_without_end(remote: Remote, server: Any, cache: Path, in_time: Any) -> None:
    def redirect(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", "/r")
        request.end_headers()
        time.sleep(0.2 * slow)

    slow = 0
    server.answers["/r"] = redirect
    with pytest.raises(InputError, match="TooManyRedirects|has not come"):
        in_time(lambda: get(remote(f"{server.address}/r")))
    slow, before = 1, len(server.asked)
    with pytest.raises(InputError, match="has not come within 1 s"):
        in_time(lambda: get(remote(f"{server.address}/r")))
    assert len(server.asked) - before < 10


def test_time_is_given_by_size() -> None:
    assert fetching._allowed(1000) < 70
    assert fetching._allowed(500_000_000) == 60 + 10_000


def test_who_waits_for_another_process_says_so_and_not_for_ever(
    remote: Remote, server: Any, weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch, hurry: None, in_time: Any
) -> None:
    server.answers["/w"] = weights
    name = remote(f"{server.address}/w")
    said: list[str] = []
    monkeypatch.setattr(fetching, "rank_zero_info", said.append)
    monkeypatch.setattr(fetching, "SILENT", 0.1)
    cache.mkdir(parents=True)
    with FileLock(cache / f"{zoo.info(name).file('model.safetensors').sha256}.lock"):
        with pytest.raises(InputError, match=r"another process has held .*\.lock' for 2 s"):
            in_time(lambda: get(name))
        assert "waiting for another process that fetches model.safetensors" in said[0]
        assert server.asked == []
    assert get(name) == weights


@pytest.mark.parametrize("honest", [True, False])
def test_compressed_bodies(remote: Remote, server: Any, weights: bytes, cache: Path, honest: bool) -> None:
    """A server may compress though it was asked not to; what comes out is bounded."""
    data = gzip.compress(weights if honest else bytes(1 << 28))

    def answer(request: BaseHTTPRequestHandler) -> None:
        assert request.headers["Accept-Encoding"] == "identity"
        request.send_response(200)
        request.send_header("Content-Encoding", "gzip")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        with suppress(OSError):
            request.wfile.write(data)

    server.answers["/z"] = answer
    name = remote(f"{server.address}/z")
    if honest:
        assert get(name) == weights
        return
    with pytest.raises(IntegrityError, match="more bytes than the entry says"):
        get(name)
    assert kept(cache) == []


def test_the_hub_is_bounded_too(hub: Any, remote: Remote, weights: bytes, cache: Path, monkeypatch: Any) -> None:
    files, place = hub
    files["model.safetensors"] = weights + b"x"
    with pytest.raises(IntegrityError, match=f"has {len(weights) + 1} bytes; at most {len(weights)} make sense"):
        get(remote(f"{place}/model.safetensors"))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: SimpleNamespace(size=None))
    with pytest.raises(IntegrityError, match=f"has more than {len(weights)} bytes"):
        get(remote(f"{place}/model.safetensors"))
    assert kept(cache) == []
    monkeypatch.setattr(fetching, "GRACE", 0.5)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: time.sleep(3))
    with pytest.raises(InputError, match="has not come within"):
        get(remote(f"{place}/model.safetensors"))
