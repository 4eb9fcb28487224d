"""The contract: some entries in, one Parquet file out, with a row for each, whole or not at all.

Nothing here knows what runs it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.decoding import Found, Picture
from dataset.sources import Entry
from dataset.storage import as_numpy, schema, stored
from explainer import Explainer
from files import whole_file
from question import Question

SHAPES = 4  # batches' worth of pictures that wait for others of their shape


@dataclass(frozen=True)
class Job:
    """What is done to every picture; it can be sent to other processes.

    model: a name that an Explainer takes. storage: a kind of `storage.TOP`. settings: what the
    files say of themselves.
    """

    model: str
    question: Question
    crop: bool
    storage: str
    batch: int
    settings: dict


def explain_shard(
    path: Path,
    job: Job,
    explainer: Explainer,
    pictures: Iterable[tuple[Entry, Found]],
    progress: Callable[[int, int], None] = lambda done, errors: None,
) -> None:
    """Write the rows of entries into a file, in the order of their numbers.

    pictures: each entry with its picture, or with why there is none, in any order. progress: is
    told how many more are done, and how many of these are errors.
    """
    rows: list[dict] = []
    waiting: dict[tuple, list[tuple[Entry, Picture]]] = defaultdict(list)

    def finish(shape: tuple) -> None:
        some = waiting.pop(shape)
        found = explained(some, job, explainer)
        rows.extend(found)
        progress(len(found), sum("error" in row for row in found))

    for entry, picture in pictures:
        if isinstance(picture, str):
            rows.append(failed(entry, picture))
            progress(1, 1)
            continue
        shape = picture.pixels.shape
        waiting[shape].append((entry, picture))
        if len(waiting[shape]) == job.batch:
            finish(shape)
        elif sum(map(len, waiting.values())) > SHAPES * job.batch:
            finish(max(waiting, key=lambda shape: len(waiting[shape])))
    for shape in list(waiting):
        finish(shape)
    write(sorted(rows, key=lambda row: row["id"]), path, job)


def explained(some: Sequence[tuple[Entry, Picture]], job: Job, explainer: Explainer) -> list[dict]:
    """Rows of pictures of one shape. If they cannot be explained together, each is by itself, so
    that the error is that of one picture.
    """
    try:
        images = explainer.images([picture.pixels for _, picture in some])
        maps, scores = job.question.answer(explainer, images)
    except ValueError as error:
        if len(some) == 1:
            return [failed(some[0][0], str(error))]
        return [row for one in some for row in explained([one], job, explainer)]
    values, scales = stored(as_numpy(maps), job.storage)
    kept = zip(some, values, scales, as_numpy(scores), strict=True)
    return [row(entry, picture, *numbers) for (entry, picture), *numbers in kept]


def row(
    entry: Entry, picture: Picture, values: np.ndarray, scales: np.ndarray, scores: np.ndarray
) -> dict:
    width, height = picture.size
    return {
        "id": entry.id,
        "path": entry.path,
        "width": width,
        "height": height,
        "window": picture.window,
        "rows": values.shape[1],
        "columns": values.shape[2],
        "scores": scores,
        "scales": scales,
        "maps": values.ravel(),
    }


def failed(entry: Entry, error: str) -> dict:
    return {"id": entry.id, "path": entry.path, "error": error}


def write(rows: list[dict], path: Path, job: Job) -> None:
    kinds = schema(job.storage, job.settings)
    columns = [
        pa.array([row.get(name) for row in rows], kinds.field(name).type) for name in kinds.names
    ]
    halves = job.storage == "float16"  # of which hardly two are the same
    dictionary = [
        name for name in kinds.names if name == "error" or (name == "maps" and not halves)
    ]
    with whole_file(path) as unfinished:
        pq.write_table(
            pa.Table.from_arrays(columns, schema=kinds),
            unfinished,
            compression="zstd",
            use_dictionary=[
                f"{name}.list.element" if name == "maps" else name for name in dictionary
            ],
        )
