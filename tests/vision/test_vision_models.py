"""Fetching model files from a server on this machine, from folders, and all that can go wrong."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from copo.errors import CopoError
from copo.vision.models import MODELS, ModelFile, fetch, find_model, locate, model, models_folder, sha256_of

DATA = bytes(range(256)) * 5000


class Server(BaseHTTPRequestHandler):
    """Serves DATA at /file (with ranges), /plain (without), /cut (breaks off), /wrong (other bytes), /long."""

    requests: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        type(self).requests.append((self.path, wanted))
        body = {"/wrong": b"x" * len(DATA), "/long": DATA + b"y" * 400_000}.get(self.path, DATA)
        if self.path == "/none":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.path != "/plain" else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        body = body[start:]
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Server.requests.clear()
    folder = tmp_path / "cache"
    monkeypatch.setenv("COPO_MODELS_DIR", str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


def entry(*addresses: str) -> ModelFile:
    return ModelFile(
        name="sample",
        file="sample.bin",
        licence="CC0",
        purpose="test",
        size=len(DATA),
        sha256=hashlib.sha256(DATA).hexdigest(),
        addresses=addresses,
    )


def test_download_reports_progress_and_is_not_repeated(address: str, cache: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    sample = entry(f"{address}/file")
    path = fetch(sample, progress=lambda done, total: seen.append((done, total)))
    assert path == cache / "sample.bin" and path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA)) and [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert fetch(sample) == path and len(Server.requests) == 1
    assert [p.name for p in cache.iterdir()] == ["sample.bin"]


@pytest.mark.parametrize("place", ["/file", "/plain"], ids=["server continues", "server starts again"])
def test_broken_download_is_continued(address: str, cache: Path, place: str) -> None:
    with pytest.raises(CopoError, match=r"connection|bytes read"):
        fetch(entry(f"{address}/cut"))
    part = cache / "sample.bin.part"
    half = part.stat().st_size
    assert 0 < half < len(DATA) and locate(entry()) is None
    assert fetch(entry(f"{address}{place}")).read_bytes() == DATA
    assert Server.requests[-1] == (place, f"bytes={half}-") and not part.exists()


def test_leftover_of_another_file_is_thrown_away(address: str, cache: Path) -> None:
    cache.mkdir()
    (cache / "sample.bin.part").write_bytes(b"something else")
    assert fetch(entry(f"{address}/file")).read_bytes() == DATA
    assert [r for _, r in Server.requests] == ["bytes=14-", None]


def test_complete_leftover_is_used_without_the_network(cache: Path) -> None:
    cache.mkdir()
    (cache / "sample.bin.part").write_bytes(DATA)
    assert fetch(entry("http://127.0.0.1:9/unused")).read_bytes() == DATA


def test_second_address_serves_where_the_first_fails(address: str) -> None:
    assert fetch(entry(f"{address}/none", f"{address}/wrong", f"{address}/file")).read_bytes() == DATA


@pytest.mark.parametrize(
    ("place", "complaint"), [("/wrong", "SHA-256"), ("/none", "404"), ("/long", "more than the expected")]
)
def test_what_is_not_the_file_is_not_kept(address: str, cache: Path, place: str, complaint: str) -> None:
    with pytest.raises(CopoError, match=complaint) as caught:
        fetch(entry(f"{address}{place}"))
    assert "--from FOLDER" in str(caught.value) and "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_without_network_the_message_says_what_to_do() -> None:
    with pytest.raises(CopoError, match=r"could not be fetched.*sample.bin another way.*--from") as caught:
        fetch(entry("http://127.0.0.1:9/sample.bin"))
    assert "\n" not in str(caught.value)


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("COPO_MODELS_DIR", str(tmp_path / "file"))
    with pytest.raises(CopoError, match="cannot write"):
        fetch(entry(f"{address}/file"))
    (tmp_path / "sample.bin").write_bytes(DATA)
    with pytest.raises(CopoError, match="cannot write"):
        fetch(entry(), tmp_path)


def test_offline_by_name_and_by_checksum(tmp_path: Path, cache: Path) -> None:
    deep = tmp_path / "usb" / "models"
    deep.mkdir(parents=True)
    (deep / "renamed.dat").write_bytes(DATA)
    assert fetch(entry(), tmp_path / "usb").read_bytes() == DATA
    (cache / "sample.bin").unlink()
    (deep / "renamed.dat").rename(deep / "sample.bin")
    assert fetch(entry("http://127.0.0.1:9/unused"), tmp_path / "usb") == cache / "sample.bin"
    assert Server.requests == []


def test_offline_refusals(tmp_path: Path) -> None:
    folder = tmp_path / "usb"
    with pytest.raises(CopoError, match="no such folder"):
        fetch(entry(), folder)
    folder.mkdir()
    with pytest.raises(CopoError, match="neither a file"):
        fetch(entry(), folder)
    (folder / "sample.bin").write_bytes(DATA[:-1])
    with pytest.raises(CopoError, match=f"{len(DATA) - 1} bytes, expected {len(DATA)}"):
        fetch(entry(), folder)
    (folder / "sample.bin").write_bytes(b"z" * len(DATA))
    with pytest.raises(CopoError, match="SHA-256"):
        fetch(entry(), folder)
    assert locate(entry()) is None


def test_damaged_file_in_the_cache_is_replaced(address: str, cache: Path) -> None:
    cache.mkdir()
    (cache / "sample.bin").write_bytes(b"z" * len(DATA))  # the right size, so that only the checksum tells
    assert fetch(entry(f"{address}/file")).read_bytes() == DATA


def test_files_without_checksum_are_found_by_name(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "sample.bin").write_bytes(b"anything")
    sample = replace(entry(), size=None, sha256=None)
    assert fetch(sample, tmp_path).read_bytes() == b"anything" and locate(sample) == cache / "sample.bin"


def test_files_for_people_only_are_not_downloaded() -> None:
    with pytest.raises(CopoError, match=r"by hand from https://.*--from FOLDER"):
        fetch(model("arcface"))
    with pytest.raises(CopoError, match="pip install some-package"):
        fetch(replace(entry(), package="some-package", inside="no_such_module/x"))
    with pytest.raises(CopoError, match="is not on this machine; to get it: copo models fetch yunet"):
        find_model("yunet")
    with pytest.raises(CopoError, match="did you mean 'yunet'"):
        find_model("yunnet")


def test_registry_is_sound() -> None:
    assert len({m.name for m in MODELS}) == len({m.file for m in MODELS}) == len(MODELS)
    for each in MODELS:
        assert bool(each.addresses) + bool(each.package) + bool(each.page) == 1, each.name
        assert all(a.startswith("https://") for a in each.addresses)
        assert (each.size is None) == (each.sha256 is None)
        assert each.sha256 is None or (len(each.sha256) == 64 and int(each.sha256, 16) >= 0)
        assert each.inside is None or each.inside.endswith(each.file)
        assert each.licence and each.purpose


def test_files_on_this_machine_have_the_registered_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.vision.samples import FACE_TASK, HAIR, PERSON, YUNET, YUNET_640

    places = {"mediapipe-face": FACE_TASK, "mediapipe-hair": HAIR, "mediapipe-person": PERSON}
    places |= {"yunet": YUNET, "yunet-640": YUNET_640}
    here = [(model(name), path) for name, path in places.items() if path.is_file()]
    here += [(m, path) for m in MODELS if m.package and (path := locate(m))]
    if not here:
        pytest.skip("none of the files is on this machine")
    for each, path in here:
        assert (path.stat().st_size, sha256_of(path)) == (each.size, each.sha256), each.name


def test_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("COPO_MODELS_DIR")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models_folder() == tmp_path / "copo" / "models"
