"""Which way every pretrained model of open_clip goes, into results/families.csv.

python tests/long/every_tag.py        as `make families` does; goes on where it was stopped

A tag's weights are not needed for that. Its configuration says whether our network reads it: a
classic ViT or ResNet beside a classic text tower, with OpenAI's vocabulary. How its image tower is
explained as it is, is seen on random weights, in two blocks (or one a stage) and few pixels.
"""

import argparse
import csv
import gc
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = map(str, (ROOT / "code", HERE.parent))

import open_clip  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from tqdm import tqdm  # noqa: E402

from checkpoints.claims import open_clips  # noqa: E402
from checkpoints.configuration import VOCABULARY  # noqa: E402
from checkpoints.errors import AnotherNetwork  # noqa: E402
from checkpoints.json_files import Section  # noqa: E402
from families import architecture  # noqa: E402
from files import whole_file  # noqa: E402
from recording.encoders import encoder_of  # noqa: E402
from saliency import relevance_maps  # noqa: E402

TABLE = ROOT / "results" / "families.csv"
COLUMNS = ("architecture", "tag", "our network", "as it is", "why not")
SIDE = 112
SHALLOW_TRUNKS = (  # of timm; which of them an architecture takes is tried
    {"depth": 2, "img_size": SIDE},
    {"depths": (1, 1, 1, 1)},
    {"layers": (1, 1, 1, 1, 1)},
    {"layers": (1, 1, 1, 1)},
)


def is_classic(name: str) -> bool:
    """Whether the architecture is in the layout that our network reads."""
    config = Section({"model_cfg": open_clip.get_model_config(name)}, name)
    try:
        return open_clips(config).shape["vocab_size"] == VOCABULARY
    except AnotherNetwork:
        return False


def shallow(name: str) -> nn.Module:
    """The architecture, of full width, with few layers for few pixels."""
    vision = open_clip.get_model_config(name)["vision_cfg"]
    if "timm_model_name" not in vision:
        layers = [1, 1, 1, 1] if isinstance(vision["layers"], list) else 2
        return architecture(name, layers=layers, image_size=4 * (vision["patch_size"] or 32))
    for trunk in SHALLOW_TRUNKS:
        try:
            return architecture(name, trunk, image_size=SIDE)
        except (TypeError, IndexError, AssertionError):
            continue
    return architecture(name, image_size=SIDE)


def as_it_is(name: str) -> dict[str, Any]:
    """What the image features of an architecture are read from, or CAMs; or why it is refused."""
    torch.manual_seed(0)
    encoder = encoder_of(shallow(name).eval())
    images = torch.randn(1, 3, *encoder.size)
    with torch.no_grad():
        width = encoder.encode(images).shape[1]
    try:
        relevance_maps(encoder, images, torch.randn(1, width))
    except ValueError as error:
        return {"as it is": "refused", "why not": str(error)}
    return {"as it is": encoder.pooling or "CAMs"}


def rows(name: str, tags: list[str]) -> Iterator[dict[str, Any]]:
    """One a tag."""
    way = {"our network": "yes" if is_classic(name) else "no"} | as_it_is(name)
    for tag in tags:
        yield {"architecture": name, "tag": tag} | way


def read(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def write(found: list[dict[str, Any]], table: Path) -> None:
    with whole_file(table) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(found, key=lambda row: (row["architecture"], row["tag"])))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=TABLE)
    table = parser.parse_args(arguments).output
    found = read(table)
    done = {row["architecture"] for row in found}
    pretrained = groupby(sorted(open_clip.list_pretrained()), key=lambda pair: pair[0])
    tags = {name: [tag for _, tag in pairs] for name, pairs in pretrained}
    for name in tqdm([name for name in tags if name not in done], unit="architecture"):
        found += rows(name, tags[name])
        write(found, table)
        gc.collect()  # modules refer to each other: two large models must not be there at once


if __name__ == "__main__":
    main()
