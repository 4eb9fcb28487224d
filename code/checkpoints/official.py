"""The official checkpoints: their names, and how they are downloaded."""

import hashlib
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from os import PathLike
from pathlib import Path

from tqdm import tqdm

from checkpoints.errors import CheckpointError
from files import whole_file

OFFICIAL_FOLDER = "~/.cache/clip"  # and OpenAI's file names: neither package downloads twice
OFFICIAL_SITE = "https://openaipublic.azureedge.net/clip/models"
PATIENCE = 30  # seconds to wait for an answer, or for a while of
SLOWEST = 10_000  # bytes a second
LARGEST = 2**31  # bytes; the official files have up to 1.3e9
FAILURES = (OSError, ValueError, HTTPException)  # network, disk and checksum; odd answers
OFFICIAL = {  # "SHA-256/file name", as in github.com/openai/CLIP, clip/clip.py
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599/RN101.pt",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd/RN50x4.pt",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa/RN50x16.pt",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c/RN50x64.pt",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    "ViT-L/14@336px": (
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt"
    ),
}


def fetch_official(name: str, folder: str | PathLike, instead: Sequence[str]) -> Path:
    """The file of the official model `name`, downloaded unless it is in `folder` already.

    A download goes to a temporary file, which takes its name once its SHA-256 is right: whatever
    interrupts it, no half file is left under that name, and two processes do not meet. It is tried
    twice, from the start. Where it fails, the error names the models to use `instead`.
    """
    folder = Path(folder).expanduser()
    sha256, file_name = OFFICIAL[name].split("/")
    path, url = folder / file_name, f"{OFFICIAL_SITE}/{OFFICIAL[name]}"
    try:
        if path.exists() and file_sha256(path) == sha256:
            return path
        sweep(folder)
        try:
            download(url, path, sha256)
        except FAILURES:
            download(url, path, sha256)
        return path
    except FAILURES as error:
        message = [
            f"cannot download {name}: {error}",
            f"Fetch {url} by hand and save it as {path} (SHA-256 {sha256})",
        ]
        if path.exists():
            message[-1] += "; the file that is there now has another checksum"
        message.append(f"Or load {hub_copy(name)!r}, the hub's copy: it needs open_clip_torch")
        if instead:
            message.append(f"Or use an embedded model ({', '.join(instead)}): it needs no network")
        raise CheckpointError("\n".join(message)) from error


def hub_copy(name: str) -> str:
    """The name of the same weights as open_clip has them, on the Hugging Face hub."""
    return f"open_clip:{name.replace('@', '-').replace('/', '-').removesuffix('px')}/openai"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, path: Path, sha256: str) -> None:
    """Fetch `url` as `path`. OSError if it stalls, is slow without end, or is another file."""
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer, whole_file(path) as unfinished:
        length = int(answer.headers.get("Content-Length", 0))
        bar = tqdm(total=length or None, unit="B", unit_scale=True, desc=path.name)
        received = counted = 0
        since = time.monotonic()
        with bar, unfinished.open("wb") as file:
            while part := answer.read1(2**20):  # what is there, without waiting for all of it
                file.write(part)
                bar.update(len(part))
                received += len(part)
                if received > LARGEST:
                    raise OSError(f"more than {LARGEST:,} bytes came")
                if (waited := time.monotonic() - since) > PATIENCE:
                    if received - counted < SLOWEST * waited:
                        raise OSError(f"less than {SLOWEST:,} bytes a second")
                    since, counted = time.monotonic(), received
        if received < length:
            raise OSError(f"the connection ended after {received:,} of {length:,} bytes")
        found = file_sha256(unfinished)
        if found != sha256:
            raise OSError(f"SHA256 hash of downloaded file: {found} instead of {sha256}")


def sweep(folder: Path) -> None:
    """Remove what killed downloads left. A living one writes more often than once an hour."""
    for path in folder.glob(".unfinished-*.pt"):
        try:
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink()
        except FileNotFoundError:  # another process was first
            continue
