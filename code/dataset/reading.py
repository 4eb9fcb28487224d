"""What was stored, read again."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from dataset.storage import restored
from preprocessing import Window

SETTINGS = "settings.json"
BATCH = 64  # rows read at once


class Explained(NamedTuple):
    """path: of the picture, as it is called. scores: 100 times the cosine with each target. maps:
    raw, on the grid.
    """

    path: str
    scores: Float[Tensor, " target"]
    maps: Float[Tensor, "target row column"]


def read_maps(folder: str | Path) -> Iterator[Explained]:
    """The pictures that explain.py has explained into a folder, in their order.

        for path, scores, maps in read_maps("maps"):
            ...

    Those with an error are left out. Memory is that of a few rows. Raises ValueError if there are
    no maps in the folder.
    """
    kind = read_settings(folder)["storage"]
    return (
        Explained(row["path"], torch.tensor(row["scores"]), maps_of(row, kind))
        for row in read_rows(folder)
        if row["error"] is None
    )


def maps_of(row: dict[str, Any], kind: str) -> Float[Tensor, "target row column"]:
    shape = row["rows"], row["columns"]
    return torch.from_numpy(restored(row["maps"], np.float32(row["scales"]), shape, kind))


def window_of(row: dict[str, Any]) -> Window:
    return Window(*row["window"])


def read_rows(folder: str | Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows as they are stored, in order, with maps as arrays."""
    for path in shards(folder):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=columns):
                lists = {name for name in ("maps",) if name in batch.schema.names}
                plain = batch.drop_columns(list(lists)).to_pylist()
                arrays = {name: batch.column(name) for name in lists}
                for place, row in enumerate(plain):
                    for name, column in arrays.items():
                        values = column[place].values
                        row[name] = None if values is None else values.to_numpy()
                    yield row


def shards(folder: str | Path) -> list[Path]:
    return sorted(Path(folder).glob("shard-*.parquet"))


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06}.parquet"


def count_errors(path: Path) -> tuple[int, int]:
    """How many rows a file has, and how many of them are errors; of its last bytes alone."""
    metadata = pq.read_metadata(path)
    place = metadata.schema.names.index("error")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    empty = sum(group.column(place).statistics.null_count for group in groups)
    return metadata.num_rows, metadata.num_rows - empty


def read_settings(folder: str | Path) -> dict[str, Any]:
    """What was asked, of which model; ValueError if there are no maps in the folder."""
    path = Path(folder) / SETTINGS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is no folder of maps: there is no {SETTINGS} in it") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
