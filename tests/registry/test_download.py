"""Downloads from a local server that truncates, resumes, ignores ranges and lies."""

import hashlib
import io
import threading
import zipfile
from collections import namedtuple
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from covidseg.core.errors import ConfigError, DownloadError, StorageError
from covidseg.registry.dataset import Download
from covidseg.registry.datasets import DATASETS
from covidseg.registry.download import download_dataset, fetch

CONTENT = np.random.default_rng(0).bytes(700_000)


class Server:
    """What the server has and how it behaves; every request is recorded."""

    def __init__(self):
        self.files = {"/x.zip": CONTENT}
        self.requests = []  # (path, Range header)
        self.truncate = []  # bytes to send of each coming answer, None for all
        self.status = []  # statuses to answer with before serving
        self.ranges = True
        self.shift = 0  # by how much the answer to a range is off
        self.headers = {}

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        if self.status:
            handler.send_response(self.status.pop(0))
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        content = self.files.get(handler.path)
        if content is None:
            handler.send_error(404)
            return
        start = int(asked[6:-1]) if asked and self.ranges else 0
        if start and start >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = content[start:]
        handler.send_response(206 if start else 200)
        if start:
            first = start + self.shift
            handler.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(body)))
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        sent = self.truncate.pop(0) if self.truncate else None
        handler.wfile.write(body[:sent])
        if sent is not None:
            handler.close_connection = True


@pytest.fixture
def server():
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.answer(self)

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture
def item(server):
    return Download(
        url=f"{server.url}/x.zip",
        file="x.zip",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        md5=hashlib.md5(CONTENT).hexdigest(),
    )


def get(item, target, pauses=None):
    pauses = [] if pauses is None else pauses
    return fetch(item, target, progress=False, pause=pauses.append)


def test_whole_file(server, item, tmp_path):
    target = tmp_path / "made" / "x.zip"
    assert get(item, target) is True
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["x.zip"]
    # Called again, it verifies what is there and asks the server nothing.
    assert get(item, target) is False
    assert len(server.requests) == 1


def test_truncated_transfers_go_on_by_range(server, item, tmp_path):
    server.truncate = [100_000, 200_000, 0, None]
    pauses = []
    get(item, tmp_path / "x.zip", pauses)
    assert (tmp_path / "x.zip").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [
        None,
        "bytes=100000-",
        "bytes=300000-",
        "bytes=300000-",
    ]
    # The pause grows only while nothing comes.
    assert pauses == [1, 1, 2]


def test_next_call_resumes_what_an_interrupted_one_left(server, item, tmp_path):
    (tmp_path / "x.zip.part").write_bytes(CONTENT[:123])
    get(item, tmp_path / "x.zip")
    assert server.requests == [("/x.zip", "bytes=123-")]
    assert (tmp_path / "x.zip").read_bytes() == CONTENT


def test_part_that_is_whole_already(server, item, tmp_path):
    (tmp_path / "x.zip.part").write_bytes(CONTENT)
    get(item, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == CONTENT


def test_part_that_is_longer_than_the_file_is_begun_again(server, item, tmp_path):
    (tmp_path / "x.zip.part").write_bytes(CONTENT + b"more")
    get(item, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == CONTENT


def test_server_without_ranges_sends_all_again(server, item, tmp_path):
    server.ranges = False
    server.truncate = [100_000, None]
    get(item, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == CONTENT


def test_part_of_another_file_is_thrown_away_once(server, item, tmp_path):
    (tmp_path / "x.zip.part").write_bytes(b"?" * 1000)
    get(item, tmp_path / "x.zip")
    assert [asked for _, asked in server.requests] == ["bytes=1000-", None]
    assert (tmp_path / "x.zip").read_bytes() == CONTENT


def test_answer_to_another_range_is_refused(server, item, tmp_path):
    server.shift = 1
    (tmp_path / "x.zip.part").write_bytes(CONTENT[:123])
    with pytest.raises(DownloadError, match="another part of the file than asked for"):
        get(item, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.parametrize("kind", ["sha256", "md5", "size"])
def test_content_that_is_not_the_published_one_is_not_kept(server, item, tmp_path, kind):
    lie = bytearray(CONTENT)
    lie[5] ^= 1
    if kind == "size":
        item = replace(item, size_bytes=len(CONTENT) + 1)
        expected = "offers 700,000 bytes; expected 700,001"
    else:
        server.files["/x.zip"] = bytes(lie)
        item = replace(item, **{"md5" if kind == "sha256" else "sha256": ""})
        expected = f"is not the published file: {kind}"
    with pytest.raises(DownloadError, match=expected):
        get(item, tmp_path / "x.zip")
    assert list(tmp_path.iterdir()) == []


def test_wrong_file_under_the_final_name_is_named_not_overwritten(server, item, tmp_path):
    (tmp_path / "x.zip").write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"x\.zip: is not the published file.*Move it away"):
        get(item, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == b"mine"
    assert server.requests == []


@pytest.mark.parametrize("declared", [True, False])
def test_web_page_instead_of_a_file(server, item, tmp_path, declared):
    server.files["/x.zip"] = b"<!DOCTYPE html><title>Please log in</title>" + b" " * 2000
    server.headers = {"Content-Type": "text/html" if declared else "application/zip"}
    with pytest.raises(DownloadError, match="web page titled 'Please log in' instead"):
        get(item, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.parametrize("status", [404, 403])
def test_refusal_is_said_at_once(server, item, tmp_path, status):
    server.status = [status] * 9
    with pytest.raises(DownloadError, match=rf"^http://.*refuses: HTTP {status}.*by hand"):
        get(item, tmp_path / "x.zip")
    assert len(server.requests) == 1


def test_busy_server_is_asked_again(server, item, tmp_path):
    server.status = [503, 429, 500]
    pauses = []
    get(item, tmp_path / "x.zip", pauses)
    assert pauses == [2, 4, 8]
    assert (tmp_path / "x.zip").read_bytes() == CONTENT


def test_giving_up_keeps_what_arrived(server, item, tmp_path):
    server.truncate = [50_000] + [0] * 9
    with pytest.raises(DownloadError, match=r"keeps breaking off.*goes on where it stopped"):
        get(item, tmp_path / "x.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip.part"]
    assert (tmp_path / "x.zip.part").read_bytes() == CONTENT[:50_000]


def test_no_server_at_all(tmp_path):
    item = Download("http://127.0.0.1:9/x.zip", "x.zip")
    with pytest.raises(DownloadError, match="keeps breaking off"):
        get(item, tmp_path / "x.zip")


def test_full_disk_is_said_before_anything_is_written(server, item, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(StorageError, match="needs 700,000 bytes more, but the disk has 1 free"):
        get(item, tmp_path / "x.zip")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_download_leaves_nothing_under_the_final_name(server, item, tmp_path):
    server.truncate = [1000]

    def interrupt(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(item, tmp_path / "x.zip", progress=False, pause=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip.part"]


def archive_of(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}/coronacases_001.nii.gz", name)
    return file.getvalue()


def test_dataset_is_fetched_unpacked_and_found(server, tmp_path, monkeypatch):
    from covidseg.registry.find import find_cases

    entry = DATASETS["covid-ct-seg"]
    items = []
    for one in entry.downloads:
        content = archive_of(one.file.removesuffix(".zip"))
        server.files[f"/{one.file}"] = content
        digest = hashlib.sha256(content).hexdigest()
        items.append(replace(one, url=f"{server.url}/{one.file}", sha256=digest))
    monkeypatch.setattr(type(entry), "downloads", tuple(items))
    done = download_dataset("covid-19-ct-seg", tmp_path, progress=False)
    assert len(done.fetched) == len(done.extracted) == 4
    (case,) = find_cases(tmp_path).cases
    assert (case.layout, sorted(case.masks)) == (
        "Zenodo",
        ["infection", "lung", "lung_and_infection"],
    )
    again = download_dataset("covid-ct-seg", tmp_path, progress=False)
    assert (len(again.kept), len(again.already_extracted)) == (4, 4)
    assert not again.fetched
    assert not again.extracted
    bare = download_dataset("covid-ct-seg", tmp_path / "bare", unpack=False, progress=False)
    assert not bare.extracted
    assert len(list((tmp_path / "bare").iterdir())) == 4


def test_unknown_dataset():
    with pytest.raises(ConfigError, match="dataset 'mnist' is not known"):
        download_dataset("mnist", ".")
