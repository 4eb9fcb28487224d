"""From samples to tables: means with 95 % bootstrap intervals over pictures, as CSV files."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from evaluation.baselines import baselines
from evaluation.localisation import MEASURES
from evaluation.sanity import parts
from evaluation.statistics import interval
from evaluation.study import Columns, Study

Rows = list[dict]
# Of the image that an object covers.
SIZES = {"small": (0, 0.04), "medium": (0.04, 0.1), "large": (0.1, 1.01)}


def csv_text(rows: Sequence[dict]) -> str:
    """Rows as CSV, numbers with four decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([cell(value) for value in row.values()] for row in rows)
    return text.getvalue()


def cell(value) -> str:
    return f"{value:.4f}" if isinstance(value, float | np.floating) else str(value)


def summary(values: Float[np.ndarray, " picture"]) -> dict[str, float]:
    """The mean of samples with its interval, as columns."""
    low, high = interval(np.asarray(values))
    return {"mean": float(np.mean(values)), "low": low, "high": high}


def by_picture(
    columns: Columns, name: str, chosen: Bool[np.ndarray, " object"] | None = None
) -> Float[np.ndarray, " picture"]:
    """The mean over the objects of each picture: objects of one picture are not independent."""
    chosen = np.ones(len(columns["picture"]), bool) if chosen is None else chosen
    _, place = np.unique(columns["picture"][chosen], return_inverse=True)
    return np.bincount(place, columns[name][chosen]) / np.bincount(place)


def groups(columns: Columns) -> Iterator[tuple[str, Bool[np.ndarray, " object"]]]:
    """All objects; those of pictures with so many; those of a size."""
    yield "all", np.ones(len(columns["area"]), bool)
    for number in np.unique(columns["objects"]).tolist():
        yield f"{number} object{'s' * (number > 1)}", columns["objects"] == number
    yield from by_size(columns).items()


def by_size(columns: Columns) -> dict[str, Bool[np.ndarray, " object"]]:
    """Of the sizes that there are, the objects of each."""
    area = columns["area"]
    found = {name: (area >= least) & (area < most) for name, (least, most) in SIZES.items()}
    return {name: chosen for name, chosen in found.items() if chosen.any()}


def tasks(study: Study, kind: str) -> Iterator[tuple[dict, Columns]]:
    """What is on file of one kind: the columns that tell the method, and its samples."""
    known = baselines(study.explainer.visual)
    for name in study.methods():
        path = study.folder / f"{kind}, {name}.safetensors"
        if path.exists():
            about = {"model": study.explainer.name, "method": name}
            about["kind"] = "baseline" if name in known else "method"
            yield about, study.on_file(f"{kind}, {name}")


def localisation(study: Study) -> Rows:
    rows = []
    for about, columns in tasks(study, "localisation"):
        for group, chosen in groups(columns):
            chance = by_picture(columns, "area", chosen).mean()
            for measure in MEASURES:
                values = by_picture(columns, measure, chosen)
                more = {"chance": chance, "pictures": len(values)}
                rows.append(about | {"objects": group, "measure": measure} | summary(values) | more)
    return rows


def naming(study: Study) -> Rows:
    """How often the object of a picture with one is named right, among all prompts."""
    right, prompts = study.on_file("naming")["right"], len(study.features)
    about = {"model": study.explainer.name, "prompts": prompts}
    more = {"chance": 1 / prompts, "pictures": len(right)}
    return [about | summary(right) | more] if len(right) else []


def cost(study: Study) -> Rows:
    return [
        about | {"forwards": float(np.median(columns["forwards"]))}
        for about, columns in tasks(study, "localisation")
    ]


def faithfulness(study: Study) -> Rows:
    return [
        about | {"measure": measure} | summary(values) | {"pictures": len(values)}
        for about, columns in tasks(study, "faithfulness")
        for measure, values in columns.items()
    ]


def sanity(study: Study) -> Rows:
    samples = study.on_file("sanity")
    order = ["nothing", *(name for name, _ in parts(study.explainer.visual))]
    about = {"model": study.explainer.name}
    return [
        about
        | {"method": method, "drawn anew down to": part}
        | summary(samples[f"{method} | {part}"])
        for method in study.methods()
        if f"{method} | nothing" in samples
        for part in order
    ]


def presence(study: Study) -> Rows:
    """How often an object that is there gets more than a concept that is not, ties half; and how
    much the absent one gets for what the present one gets.
    """
    rows = []
    for name, values in study.on_file("presence").items():
        there, missing = values.T
        wins = (there > missing) + 0.5 * (there == missing)
        ratio = missing.mean() / there.mean()
        rows.append(
            {"model": study.explainer.name, "sum of": name} | summary(wins) | {"ratio": ratio}
        )
    return rows


def last_grad(study: Study) -> Rows:
    """Of each block, of each of its heads and of the blocks from it on: its share of the map, and
    how well it localises alone.
    """
    if not (study.folder / "parts of last grad.safetensors").exists():
        return []
    columns = study.on_file("parts of last grad")
    rows = []
    sizes = {"all": np.ones(len(columns["area"]), bool)} | by_size(columns)
    for name in columns:
        measure, _, part = name.partition(", ")
        if part:
            for size, chosen in sizes.items():
                values = by_picture(columns, name, chosen)
                about = {"model": study.explainer.name, "part": part, "objects": size}
                rows.append(about | {"measure": measure} | summary(values))
    return rows


TABLES = {
    "localisation": localisation,
    "naming": naming,
    "cost": cost,
    "faithfulness": faithfulness,
    "sanity": sanity,
    "presence": presence,
    "last_grad": last_grad,
}


def write_tables(studies: Sequence[Study], folder: Path) -> dict[str, Rows]:
    """All tables, and a CSV file of each that has rows."""
    tables = {name: [row for one in studies for row in make(one)] for name, make in TABLES.items()}
    for name, rows in tables.items():
        if rows:
            (folder / f"{name}.csv").write_text(csv_text(rows), encoding="utf-8")
    return tables
