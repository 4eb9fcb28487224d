"""From samples to tables: means with 95 % bootstrap intervals over pictures, as CSV files."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from evaluation.baselines import baselines
from evaluation.localisation import MEASURES
from evaluation.sanity import parts
from evaluation.study import ORIGINAL, Columns, Study
from files import whole_file
from intervals import interval

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
) -> tuple[Int[np.ndarray, " picture"], Float[np.ndarray, " picture"]]:
    """The number of each picture, and the mean over its objects: those are not independent."""
    chosen = np.ones(len(columns["picture"]), bool) if chosen is None else chosen
    numbers, place = np.unique(columns["picture"][chosen], return_inverse=True)
    return numbers, np.bincount(place, columns[name][chosen]) / np.bincount(place)


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
    """Of each method that was measured: the columns that tell which it is, and its samples."""
    known = baselines(study.explainer.encoder)
    for name in study.chosen:
        about = {"model": study.explainer.name, "method": name}
        about["kind"] = "baseline" if name in known else "method"
        yield about, study.on_file(f"{kind}, {name}")


def localisation(study: Study) -> Rows:
    rows = []
    for about, columns in tasks(study, "localisation"):
        for group, chosen in groups(columns):
            chance = by_picture(columns, "area", chosen)[1].mean()
            for measure in MEASURES:
                _, values = by_picture(columns, measure, chosen)
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
        if measure != "picture"
    ]


def sanity(study: Study) -> Rows:
    if not study.draws_anew():
        return []
    samples = study.on_file("sanity")
    order = ["nothing", *(name for name, _ in parts(study.explainer.encoder.model))]
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
    if not study.takes_last_grad_apart():
        return []
    columns = study.on_file("parts of last grad")
    rows = []
    sizes = {"all": np.ones(len(columns["area"]), bool)} | by_size(columns)
    for name in columns:
        measure, _, part = name.partition(", ")
        if part:
            for size, chosen in sizes.items():
                _, values = by_picture(columns, name, chosen)
                about = {"model": study.explainer.name, "part": part, "objects": size}
                rows.append(about | {"measure": measure} | summary(values))
    return rows


def signs(study: Study) -> Rows:
    """Where positive and negative maps lie."""
    columns = study.on_file("signs")
    rows = []
    for name in columns:
        if " | " in name:
            _, values = by_picture(columns, name)
            parts = zip(("method", "saliency", "lies on"), name.split(" | "), strict=True)
            more = {"pictures": len(values)}
            rows.append({"model": study.explainer.name} | dict(parts) | summary(values) | more)
    return rows


def others(study: Study) -> Rows:
    """How much better a method localises what speaks for a target and not for others."""
    columns = study.on_file("others")
    rows = []
    for name in columns:
        measure, _, asked = name.partition(", ")
        method, _, among = asked.partition(" | ")
        if among and among != "nothing":
            _, plain = by_picture(columns, f"{measure}, {method} | nothing")
            _, values = by_picture(columns, name)
            row = {"model": study.explainer.name, "method": method, "against": among}
            more = {"pictures": len(values)}
            rows.append(row | {"measure": measure} | summary(values - plain) | more)
    return rows


def variants(study: Study) -> Rows:
    """How well the variants of `last grad` localise."""
    rows = []
    for name in study.variants():
        columns = study.on_file(f"variant, {name}")
        for measure in MEASURES:
            _, values = by_picture(columns, measure)
            about = {"model": study.explainer.name, "variant": name, "measure": measure}
            rows.append(about | summary(values) | {"pictures": len(values)})
    return rows


def gain(ours: Columns, theirs: Columns, measure: str) -> Float[np.ndarray, " picture"]:
    """By how much ours is better, picture by picture, on those that both were measured on."""
    numbers, mine = by_picture(ours, measure)
    others, yours = by_picture(theirs, measure)
    _, here, there = np.intersect1d(numbers, others, return_indices=True)
    sign = -1 if measure.startswith("deletion") else 1
    return sign * (mine[here] - yours[there])


def against(study: Study) -> Rows:
    """How much better each method is, on the same pictures, than the baseline and than the method
    that are best in that measure, and than the original project's; better means less in deletion.
    """
    rows = []
    for kind in ("localisation", "faithfulness"):
        found = list(tasks(study, kind))
        methods = {one["method"]: columns for one, columns in found if one["kind"] == "method"}
        known = {one["method"]: columns for one, columns in found if one["kind"] == "baseline"}
        if not methods:
            continue
        measures = MEASURES if kind == "localisation" else next(iter(methods.values())).keys()
        for measure in sorted(set(measures) - {"picture"}):
            rivals = {"best method": best(methods, measure), "best baseline": best(known, measure)}
            rivals["the original's"] = next((one for one in ORIGINAL if one in methods), None)
            for (rival, than), (method, ours) in product(rivals.items(), methods.items()):
                if than not in (None, method):
                    values = gain(ours, (methods | known)[than], measure)
                    row = {"model": study.explainer.name, "method": method, "rival": rival}
                    more = {"pictures": len(values)}
                    rows.append(row | {"than": than, "measure": measure} | summary(values) | more)
    return rows


def best(found: dict[str, Columns], measure: str) -> str | None:
    """The name of what is best in a measure, if there is anything."""
    sign = -1 if measure.startswith("deletion") else 1
    return max(found, key=lambda name: sign * found[name][measure].mean(), default=None)


def last_grad_against(study: Study) -> Rows:
    """How much better `last grad` is than other methods and than its variants, on the same
    pictures, by the number and the size of objects.
    """
    found = {about["method"]: columns for about, columns in tasks(study, "localisation")}
    ours = found.get("last grad")
    if ours is None:
        return []
    names = [name for name in study.explainer.methods if name in found and name != "last grad"]
    rivals = {name: found[name] for name in names}
    rivals |= {name: study.on_file(f"variant, {name}") for name in study.variants()}
    grouped = by_group(ours)
    rows = []
    for name, theirs in rivals.items():
        for group, some in by_group(theirs).items():
            for measure in MEASURES:
                values = gain(grouped[group], some, measure)
                row = {"model": study.explainer.name, "against": name, "objects": group}
                more = {"pictures": len(values)}
                rows.append(row | {"measure": measure} | summary(values) | more)
    return rows


def by_group(columns: Columns) -> dict[str, Columns]:
    """The rows of each group."""
    return {
        group: {key: values[chosen] for key, values in columns.items()}
        for group, chosen in groups(columns)
    }


TABLES = {
    "localisation": localisation,
    "naming": naming,
    "cost": cost,
    "faithfulness": faithfulness,
    "sanity": sanity,
    "presence": presence,
    "signs": signs,
    "others": others,
    "last_grad": last_grad,
    "variants": variants,
    "against": against,
    "last_grad_against": last_grad_against,
}


def write_tables(studies: Sequence[Study], folder: Path) -> dict[str, Rows]:
    """All tables, and a CSV file of each that has rows; one without takes an older file away."""
    tables = {name: [row for one in studies for row in make(one)] for name, make in TABLES.items()}
    for name, rows in tables.items():
        path = folder / f"{name}.csv"
        if rows:
            with whole_file(path) as unfinished:
                unfinished.write_text(csv_text(rows), encoding="utf-8")
        else:
            path.unlink(missing_ok=True)
    return tables
