"""Downloading what is openly published: resumed, verified, whole under its name or not there."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from covidseg.core.errors import DownloadError, StorageError
from covidseg.core.files import storage_error
from covidseg.core.progress import progress_bar
from covidseg.registry.dataset import Download
from covidseg.registry.datasets import dataset
from covidseg.registry.extract import archive_stem, extract

_BLOCK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 60
_ATTEMPTS = 6
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


@dataclass
class Downloaded:
    """What a call of `download_dataset` did."""

    fetched: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    extracted: list[Path] = field(default_factory=list)
    already_extracted: list[Path] = field(default_factory=list)


def download_dataset(
    name: str, out: str | os.PathLike[str], *, unpack: bool = True, progress: bool = True
) -> Downloaded:
    """Fetch every openly downloadable file of a dataset into ``out`` and unpack its archives there.

    Files that stand there verified are kept, broken-off ones are continued. Each archive is
    unpacked into a folder of its own name beside it; one that stands is kept.

    Raises
    ------
    ConfigError
        The dataset is not known.
    DownloadError
        A file cannot be fetched, or is not what was published.
    StorageError
        The disk cannot hold it.
    """
    out = Path(out)
    done = Downloaded()
    for item in dataset(name).downloads:
        target = out / item.file
        (done.fetched if fetch(item, target, progress=progress) else done.kept).append(target)
        stem = archive_stem(item.file)
        if not unpack or stem is None:
            continue
        folder = out / stem
        if folder.exists():
            done.already_extracted.append(folder)
        else:
            done.extracted.append(extract(target, folder, progress=progress))
    return done


def fetch(
    item: Download,
    target: Path,
    *,
    progress: bool = True,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Fetch one file to ``target``; false where it stood there already and is what was published.

    What has arrived is kept as ``<name>.part`` beside it, from where the next call goes on. A
    transfer that breaks off is taken up again up to six times in a row without progress, with
    growing pauses. Only a file whose size and checksums are the published ones gets its final name.

    Raises
    ------
    DownloadError
        The server refuses, sends a web page instead, or what arrived is not what was published.
    StorageError
        The disk cannot hold it.
    """
    if target.exists():
        _verify(item, target, progress)
        return False
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists() and part.stat().st_size > 0
        _transfer(item, part, progress, pause)
        try:
            _verify(item, part, progress)
        except DownloadError:
            part.unlink(missing_ok=True)
            if not resumed:
                raise
            # The beginning was of an earlier call, perhaps of another file: once more from scratch.
            _transfer(item, part, progress, pause)
            try:
                _verify(item, part, progress)
            except DownloadError:
                part.unlink(missing_ok=True)
                raise
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as fault:
        raise storage_error(fault, target) from fault
    return True


class _BrokenOff(Exception):
    """The connection ended early; what arrived is kept."""


def _transfer(item: Download, part: Path, progress: bool, pause: Callable[[float], None]) -> None:
    attempt = 0
    with progress_bar(
        total=item.size_bytes,
        desc=item.file,
        unit="B",
        unit_scale=True,
        disable=not progress,
        dynamic_ncols=True,
    ) as bar:
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                _attempt(item, part, before, bar)
            except _BrokenOff as fault:
                held = part.stat().st_size if part.exists() else 0
                attempt = 0 if held > before else attempt + 1
                if attempt >= _ATTEMPTS:
                    raise DownloadError(
                        f"the transfer keeps breaking off ({fault})",
                        path=part,
                        expected=item.url,
                        remedy="call the command again later: it goes on where it stopped",
                    ) from fault
                pause(min(60.0, 2.0**attempt))
            else:
                return


def _attempt(item: Download, part: Path, held: int, bar: tqdm) -> None:
    headers = {"User-Agent": f"covidseg/{version('covidseg')}", "Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
    request = urllib.request.Request(item.url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            _receive(response, item, part, held, bar)
    except urllib.error.HTTPError as fault:
        if fault.code == 416 and held:
            # Nothing lies beyond what is held: it is whole, or not this file at all.
            total = re.fullmatch(r"bytes \*/(\d+)", fault.headers.get("Content-Range", ""))
            if total and int(total[1]) == held:
                return
            part.unlink(missing_ok=True)
            raise _BrokenOff("the server has less than was held; begun again") from fault
        if fault.code in _TRANSIENT:
            raise _BrokenOff(f"HTTP {fault.code} {fault.reason}") from fault
        raise DownloadError(
            f"{item.url}: the server refuses: HTTP {fault.code} {fault.reason}",
            expected=f"the file {item.file}",
            remedy="look at the dataset's page whether it has moved, and download it by hand",
        ) from fault
    except urllib.error.URLError as fault:
        raise _BrokenOff(str(fault.reason)) from fault
    except (http.client.HTTPException, ConnectionError, TimeoutError) as fault:
        raise _BrokenOff(str(fault) or type(fault).__name__) from fault


def _receive(response: Any, item: Download, part: Path, held: int, bar: tqdm) -> None:
    start = 0
    if response.status == 206:
        match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        start = int(match[1]) if match else -1
        if start != held:
            raise DownloadError(
                f"{item.url}: the server answers with another part of the file than asked for"
                f" (from {start})",
                expected=f"from byte {held}",
                remedy=f"delete {part} and call the command again",
            )
    # Status 200 to a request for a part: the server sends all of it, so begin again.
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdigit() else None
    if item.size_bytes is not None and total is not None and total != item.size_bytes:
        _refuse_page(response, item, b"")
        raise DownloadError(
            f"{item.url}: the server offers {total:,} bytes",
            expected=f"{item.size_bytes:,}",
            remedy="look at the dataset's page whether the file was replaced",
        )
    if total is not None:
        free = shutil.disk_usage(part.parent).free
        if total - start > free:
            raise StorageError(
                f"needs {total - start:,} bytes more, but the disk has {free:,} free",
                path=part,
                remedy="free space on that disk, or choose another output folder",
            )
        bar.total = total
    received = start
    bar.n = start
    bar.refresh()
    with open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        while True:
            try:
                block = response.read(_BLOCK_BYTES)
            except http.client.IncompleteRead as fault:
                file.write(fault.partial)
                raise _BrokenOff(f"{received + len(fault.partial):,} bytes arrived") from fault
            if not block:
                break
            if received == 0:
                _refuse_page(response, item, block)
            file.write(block)
            received += len(block)
            bar.update(len(block))
    if total is not None and received < total:
        raise _BrokenOff(f"{received:,} of {total:,} bytes arrived")


def _refuse_page(response: Any, item: Download, block: bytes) -> None:
    """Raise if the server sends a web page where an archive was asked for."""
    kind = response.headers.get_content_type()
    start = block[:1024].lstrip().lower()
    if kind == "text/html" or start.startswith((b"<!doctype html", b"<html")):
        title = re.search(rb"<title[^>]*>(.*?)</title>", block, re.IGNORECASE | re.DOTALL)
        said = f" titled {title[1].decode(errors='replace').strip()!r}" if title else ""
        raise DownloadError(
            f"{item.url}: the server sends a web page{said} instead of the file",
            expected=f"the file {item.file}",
            remedy="open the address in a browser: it may ask to agree to terms or to log in",
        )


def _verify(item: Download, path: Path, progress: bool) -> None:
    """Raise `DownloadError` unless a file's size and checksums are those that were published."""
    size = path.stat().st_size
    found: dict[str, tuple[str, str]] = {}
    if item.size_bytes is not None and size != item.size_bytes:
        found["size"] = (f"{size:,} bytes", f"{item.size_bytes:,}")
    else:
        digests = {
            kind: hashlib.new(kind, usedforsecurity=False)
            for kind, wanted in (("sha256", item.sha256), ("md5", item.md5))
            if wanted
        }
        with (
            open(path, "rb") as file,
            progress_bar(
                total=size,
                desc=f"verify {item.file}",
                unit="B",
                unit_scale=True,
                disable=not progress or not digests,
                dynamic_ncols=True,
            ) as bar,
        ):
            while digests and (block := file.read(1 << 20)):
                for digest in digests.values():
                    digest.update(block)
                bar.update(len(block))
        for kind, digest in digests.items():
            wanted = item.sha256 if kind == "sha256" else item.md5
            if digest.hexdigest() != wanted:
                found[kind] = (digest.hexdigest(), wanted)
    if found:
        kind, (have, wanted) = next(iter(found.items()))
        final = path.name == item.file
        what = f"is not the published file: {kind} {have}"
        raise DownloadError(
            what if final else f"{item.url}: what arrived {what}",
            path=path if final else None,
            expected=wanted,
            remedy="move it away and call the command again"
            if final
            else "nothing was kept; try again, and if it stays so, the file was replaced: look at"
            " the dataset's page",
        )
