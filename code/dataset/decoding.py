"""Pictures of entries, decoded and framed: here, or by processes that may die of them."""

import io
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import numpy as np
import PIL.Image

from clip_ import to_rgb
from dataset.sources import Entry
from image_utils import decoded
from preprocessing import Window, window_seen

CHUNK = 8  # pictures sent to a process at once
TRIES = 2  # of a picture alone, before it is to blame that its process died
DIED = "the process that decodes it died of it"


class Picture(NamedTuple):
    """What is explained of a picture: bytes [row, column, 3], or floats as a model takes them; and
    the (width, height) of all of it, upright.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    window: Window


Found = Picture | str  # or why there is none


@dataclass(frozen=True)
class Decoder:
    """Reads and frames pictures; `frame` is an Explainer's."""

    frame: Callable

    def __call__(self, entry: Entry) -> Found:
        try:
            with warnings.catch_warnings():
                # A small file may be a picture of gigabytes; what is refused here has 89 million
                # pixels or more.
                warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
                content = entry.where.read()
                if not content:
                    return "the file is empty"
                image = to_rgb(decoded(io.BytesIO(content), "it"))
            pixels = np.asarray(self.frame(image))
            return Picture(pixels, image.size, window_seen(self.frame, image.size))
        except (OSError, ValueError, TypeError, MemoryError) as error:
            return " ".join(f"{error or type(error).__name__}".split())

    def each(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Found]]:
        return ((entry, self(entry)) for entry in entries)


class Worker(NamedTuple):
    process: BaseProcess
    line: Connection


class Decoders:
    """Processes that decode; they end with this one, however it ends.

    They are not forked from it, since it has threads: a server that has none starts them. One that
    dies is replaced, and what it had is tried again, picture by picture.
    """

    def __init__(self, decoder: Decoder, count: int):
        self.decoder = decoder
        self.context = get_context("forkserver")
        self.context.set_forkserver_preload(["numpy", "torch", "torchvision", "matplotlib"])
        self.workers = [self.start() for _ in range(count)]

    def start(self) -> Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=serve, args=(theirs, self.decoder), daemon=True)
        process.start()
        theirs.close()
        return Worker(process, ours)

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *_) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()

    def each(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Found]]:
        """Pictures, in the order in which they are ready."""
        entries = iter(entries)
        again: deque[list[Entry]] = deque()
        tried: dict[int, int] = {}
        busy: dict[Connection, tuple[Worker, list[Entry]]] = {}

        def hand_out(worker: Worker) -> None:
            chunk = again.popleft() if again else list(islice(entries, CHUNK))
            if chunk:
                with suppress(OSError):  # it is dead: then there is nothing to receive
                    worker.line.send(chunk)
                busy[worker.line] = worker, chunk

        for worker in self.workers:
            hand_out(worker)
        while busy:
            for line in wait(list(busy)):
                worker, chunk = busy.pop(line)
                try:
                    found = line.recv()
                except (EOFError, OSError):
                    worker, found = self.replace(worker), None
                if found is None and len(chunk) == 1:
                    tries = tried[chunk[0].id] = tried.get(chunk[0].id, 0) + 1
                    found = [DIED] if tries == TRIES else None
                if found is None:
                    again.extend([entry] for entry in chunk)
                hand_out(worker)
                yield from zip(chunk, found or (), strict=found is not None)

    def replace(self, worker: Worker) -> Worker:
        worker.process.join()
        worker.line.close()
        self.workers[self.workers.index(worker)] = new = self.start()
        return new


def serve(line: Connection, decoder: Decoder) -> None:
    """What a process does: until the other end is closed, which is when its owner ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key stops its owner, which stops it
    with suppress(EOFError, ConnectionError):
        while True:
            line.send([decoder(entry) for entry in line.recv()])
