"""A run over sources, shard by shard, into a folder: what is there is skipped, so it goes on where
it was stopped.
"""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import PIL
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from dataset.decoding import Decoder, Decoders
from dataset.reading import SETTINGS, count_errors, read_rows, read_settings, shard_path, shards
from dataset.shard import Job, explain_shard
from dataset.sources import LISTING, Entry, entries, listing
from explainer import Explainer, digest_of
from files import whole_file
from methods import is_signed
from question import Question

FREE = ("sources", "versions")  # settings that may differ between runs into one folder
LOCK = ".lock"  # a file of the folder that says nothing: whose process has locked it writes there
LISTED = 20  # errors that are told at the end


@dataclass(frozen=True)
class Plan:
    """What a run does: `job` for every picture of the sources, `size` of them a file of `out`."""

    sources: tuple[str, ...]
    out: Path
    job: Job
    total: int
    size: int

    def shards(self) -> Iterator[tuple[Path, list[Entry]]]:
        """The files that are to be written, and the entries of each."""
        found = entries(self.sources, self.out)
        for number in range(self.count):
            yield shard_path(self.out, number), list(islice(found, self.size))

    @property
    def count(self) -> int:
        return -(-self.total // self.size)

    def missing(self) -> Iterator[tuple[Path, list[Entry]]]:
        return ((path, some) for path, some in self.shards() if not path.exists())


@contextmanager
def planned(
    sources: Sequence[str],
    out: Path,
    model: str,
    explainer: Explainer,
    question: Question,
    *,
    like: Sequence[Path] = (),
    crop: bool = False,
    float16: bool = False,
    size: int = 1000,
    batch: int = 32,
) -> Iterator[Plan]:
    """The plan of a run, whose settings are now in the folder, which nobody else may write into
    until the block ends; `like`: the pictures among targets.

    Raises ValueError or OSError for sources that cannot be read or hold no picture, and for a
    folder of other settings or that another process writes into.
    """
    total, digest = listing(sources, out)
    if not total:
        raise ValueError(f"there is no picture in {', '.join(sources)}")
    storage = "float16" if float16 else "int8" if is_signed(question.method) else "uint8"
    settings = {
        "model": explainer.name,
        "weights": digest_of(explainer.network),
        "targets": list(question.names),
        "pictures as targets": {path.name: digest_of_file(path) for path in like},
        "method": question.method,
        "negative": question.negative,
        "frame": repr(explainer.frame(crop)),
        "storage": storage,
        "pictures": total,
        LISTING: digest,
        "pictures a file": size,
        "sources": [os.path.abspath(source) for source in sources],
        "versions": {
            "torch": torch.__version__,
            "pillow": PIL.__version__,
            "python": platform.python_version(),
        },
    }
    job = Job(model, question, crop, storage, batch, settings)
    with locked(out):
        keep_settings(out, settings)
        yield Plan(tuple(sources), out, job, total, size)


def digest_of_file(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def require_folder(out: Path) -> None:
    """Raise ValueError unless maps can be written into a folder of that name."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder for the maps")
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into {there}: {error.strerror}") from error
    visible = [path for path in out.glob("*") if not path.name.startswith(".")]
    if visible and not (out / SETTINGS).exists():
        raise ValueError(f"{out} holds other things than maps: give a folder that is new or empty")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system takes back however this process ends; ValueError if
    another has it.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"another command writes into {out}: wait for its end, or give another folder"
        ) from None
    except (OSError, NotImplementedError) as error:  # the latter of file systems without locks
        raise ValueError(f"cannot lock {out / LOCK}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def keep_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write what is asked into the folder; ValueError if something else was asked before."""
    if (out / SETTINGS).exists():
        before = read_settings(out)
        differing = [
            f"{name} was {short(before.get(name))} and is now {short(value)}"
            for name, value in settings.items()
            if name not in FREE and before.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"{out} holds maps of other settings: {'; '.join(differing)}; give another folder"
            )
    with whole_file(out / SETTINGS) as unfinished:
        unfinished.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def short(value: Any) -> str:
    said = json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 60 else f"{said[:57]}..."


class Progress:
    """How far a run is: pictures a second, the time left, errors."""

    def __init__(self, plan: Plan):
        there = [count_errors(path) for path in shards(plan.out)]
        self.errors = sum(errors for _, errors in there)
        done = sum(rows for rows, _ in there)
        self.bar = tqdm(total=plan.total, initial=done, unit=" pictures", smoothing=0.05)
        self.add(0, 0)

    def add(self, done: int, errors: int) -> None:
        self.errors += errors
        self.bar.set_postfix(errors=self.errors, refresh=False)
        self.bar.update(done)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()


def run(plan: Plan, explainer: Explainer, workers: int) -> None:
    """Write what is missing; pictures are decoded by `workers` processes."""
    decoder = Decoder(explainer.frame(plan.job.crop))
    with Progress(plan) as progress, Decoders(decoder, workers) as decoders:
        for path, some in plan.missing():
            explain_shard(path, plan.job, explainer, decoders.each(some), progress.add)


def finish(plan: Plan) -> int:
    """Remove what interrupted runs have left, and print what there is; the number of errors."""
    for ending in (".parquet", ".json"):  # and not the page, which may be being written
        for left in plan.out.glob(f".unfinished-*{ending}"):
            left.unlink(missing_ok=True)
    found = {path: count_errors(path) for path in shards(plan.out)}
    total, errors = (sum(each) for each in zip(*found.values(), strict=True))
    print(f"{total - errors:,} of {total:,} pictures explained, in {plan.out}")
    if errors:
        print(f"{errors:,} could not be:")
    for row in islice(errors_of(plan.out, found), LISTED):
        print(f"  {row['path']!r}: {row['error']}")
    if errors > LISTED:
        print(f"  and {errors - LISTED:,} more: explain.py show {plan.out}")
    return errors


def errors_of(out: Path, found: dict[Path, tuple[int, int]]) -> Iterator[dict]:
    if not any(errors for _, errors in found.values()):
        return iter(())
    return (row for row in read_rows(out, ("path", "error")) if row["error"] is not None)
