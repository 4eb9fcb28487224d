"""The measurements behind `python -m evaluation`: samples, a row an object or a picture.

A study keeps what it has measured in a folder, a file for each measure and method, so that it goes
on where it was stopped. The folder's name holds a digest of all that the samples follow from: the
weights, the prompts, the pictures and other settings, and the code and drawings of this project.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from evaluation.baselines import baselines
from evaluation.faithfulness import end_scores, insertion_deletion, score_of
from evaluation.last_grad import VARIANTS, agreement, shares, variant_maps
from evaluation.localisation import (
    all_measures,
    energy_in_mask,
    pointing_game,
    where_it_lies,
    without,
)
from evaluation.sanity import cascade, rank_correlation
from evaluation.scene_sets import SceneBatch, absent_concepts
from explainer import Explainer, digest_of
from files import whole_file
from model import CLIP, VisionTransformer
from saliency import relevance_maps, resize_maps
from siglip import SigLIP

CODE = Path(__file__).resolve().parents[1]
# What is made of samples, or of other questions, does not change them.
NOT_MEASURING = {"notebooks", "plots.py", "tables.py", "node_modules", "text.py", "map_use.py"}
NOT_MEASURING |= {"explain.py", "dataset", "page", "widget.py", "thumbnails.py", "train.py"}
NOT_MEASURING |= {"output.py"}

ORIGINAL = ("last grad", "GradCAM")  # the defaults of the original project

Columns = dict[str, np.ndarray]
# Batches of pictures, of so many at most: the same ones, in the same order, at every call.
Pictures = Callable[[int | None], Iterable[SceneBatch]]
# Methods that run the network many times are measured on this many pictures at most.
FEWER = {
    "FullGrad": 200,
    "AblationCAM": 200,
    "occlusion": 60,
    "ScoreCAM": 12,
    "GScoreCAM": 12,
}


class Study:
    """One model, with the features of all prompts, and a folder of what is measured.

    settings: whatever else the samples follow from, such as a digest of the pictures.
    only: the methods and baselines to measure; by default all.
    """

    def __init__(
        self,
        explainer: Explainer,
        prompts: list[str],
        folder: Path,
        settings: str,
        only: Sequence[str] | None = None,
    ):
        self.explainer = explainer
        self.chosen = [name for name in self.methods() if only is None or name in only]
        if isinstance(explainer.network, CLIP):  # a ResNet is quicker so, on a CPU
            explainer.network.to(memory_format=torch.channels_last)
        self.features = explainer.texts(prompts)
        weights = digest_of(explainer.network)
        digest = hashlib.sha256(f"{prompts} {settings} {source_digest()} {weights}".encode())
        self.ends = {}  # by the numbers of a batch's pictures: `end_scores`, for all methods
        self.folder = folder / f"{explainer.name[:40]}-{digest.hexdigest()[:12]}"

    def methods(self, visual: nn.Module | None = None) -> dict[str, Callable]:
        """Every method of the model and every baseline, (images, targets) -> maps of any size; of
        another image encoder of the same kind, if one is given.
        """
        visual = visual or self.explainer.encoder
        named = {name: partial(relevance_maps, method=name) for name in self.explainer.methods}
        return {name: partial(one, visual) for name, one in (named | baselines(visual)).items()}

    def variants(self) -> dict[str, Callable]:
        """The variants of `last grad`, if that is chosen, as `methods`."""
        visual = self.explainer.encoder
        found = VARIANTS if self.takes_last_grad_apart() else ()
        return {name: partial(variant_maps, visual, variant=name) for name in found}

    def takes_last_grad_apart(self) -> bool:
        """Whether that is to be measured: of a ViT of ours."""
        return "last grad" in self.chosen and isinstance(
            self.explainer.encoder.model, VisionTransformer
        )

    def leading(self) -> list[str]:
        """The default method of the model and that of the original project."""
        named = dict.fromkeys((self.explainer.methods[0], *ORIGINAL))
        return [name for name in named if name in self.explainer.methods]

    def draws_anew(self) -> bool:
        """Whether the parts of the network are known, which `sanity` draws anew."""
        return isinstance(self.explainer.network, CLIP | SigLIP)

    def measured(self, name: str, measure: Callable[[], Columns]) -> Columns:
        """What is on file under a name, or else measured now and filed."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            columns = {key: np.ascontiguousarray(values) for key, values in measure().items()}
            with whole_file(path) as unfinished:
                save_file(columns, unfinished)
        return self.on_file(name)

    def on_file(self, name: str) -> Columns:
        """What was measured under a name. Raises ValueError if the file is damaged."""
        path = self.folder / f"{name}.safetensors"
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is damaged ({error}): delete it, and it is measured again"
            ) from error

    # What is measured

    def localisation(self, name: str, pictures: Pictures) -> Columns:
        """A row an object: the number of its picture, how many objects are in that, its area, all
        MEASURES, and the time of its picture's maps over that of a forward pass.
        """
        explain, rows, forward = (self.methods() | self.variants())[name], [], None
        for numbers, batch in numbered(pictures(FEWER.get(name))):
            images, targets = self.asked(batch)
            if forward is None or numbers[0] % 64 == 0:  # machines change their pace, slowly
                forward = timed(self.explainer.pictures, images)[0] / len(images)
            spent, maps = timed(explain, images, targets)
            maps = without(resize_maps(maps.cpu().float(), images.shape[-2:]), batch.unknown)
            row = all_measures(maps, batch.masks) | about(numbers, batch)
            row["forwards"] = torch.full_like(row["area"], spent / len(images) / forward)
            rows.append({key: values.flatten() for key, values in row.items()})
        return stacked(rows)

    def asked(self, batch: SceneBatch) -> tuple[Tensor, Tensor]:
        """Images and, for each, the features of its objects' prompts, on the model's device."""
        images = batch.images.to(self.explainer.device)
        return images, self.features[batch.concepts.to(self.features.device)]

    def naming(self, pictures: Pictures) -> Columns:
        """A row a picture of one object: whether its prompt is the most similar of all prompts."""
        rows = []
        for batch in pictures(None):
            if batch.concepts.shape[1] == 1:
                best = self.explainer.scores(batch.images, self.features).argmax(-1).cpu()
                rows.append({"right": (best == batch.concepts[:, 0]).float()})
        return stacked(rows) if rows else {"right": np.zeros(0)}

    def faithfulness(self, name: str, pictures: Pictures) -> Columns:
        """A row a picture, for its first object: its number, areas under insertion and deletion."""
        explain, rows = self.methods()[name], []
        for numbers, batch in numbered(pictures(FEWER.get(name))):
            images, targets = self.asked(batch)
            maps = resize_maps(explain(images, targets[:, :1]).float(), images.shape[-2:])[:, 0]
            asked = batch.concepts[:, 0].to(images.device)
            score = score_of(self.explainer.encoder, self.features, asked)
            shown = tuple(numbers.tolist())
            if shown not in self.ends:
                self.ends[shown] = end_scores(score, images)
            areas = insertion_deletion(score, images, maps, self.ends[shown])
            rows.append({"picture": numbers} | {key: value.cpu() for key, value in areas.items()})
        return stacked(rows)

    def sanity(self, pictures: Pictures) -> Columns:
        """A row a picture, for its first object; a column "method | part": the rank correlation of
        the map with that of the trained model, when everything down to the part is drawn anew.
        """
        rows = []
        for batch in pictures(None):
            images, targets = self.asked(batch)
            row, first = {}, {}
            for part, visual in cascade(self.explainer.encoder):
                for name, explain in self.methods(visual).items():
                    if name not in FEWER:
                        maps = explain(images, targets[:, :1])[:, 0]
                        first.setdefault(name, maps)
                        row[f"{name} | {part}"] = rank_correlation(maps, first[name]).cpu()
            rows.append(row)
        return stacked(rows)

    def parts_of_last_grad(self, pictures: Callable[[], Iterable[SceneBatch]]) -> Columns:
        """A row an object: of each block, and each head of it, the share of the map of `last grad`,
        and how well it would localise alone; with the blocks from each on, as `start_block`; and
        how much the block's own gradient agrees with the last.
        """
        rows = []
        for numbers, batch in numbered(pictures()):
            images, targets = self.asked(batch)
            put = shares(self.explainer.encoder, images, targets).cpu()
            total = put.sum((0, 1, -2, -1)).clamp(min=1e-30)
            agrees = agreement(self.explainer.encoder, images, targets).cpu()
            row = about(numbers, batch)
            for block in range(len(put)):
                row[f"agreement, block {block}"] = agrees[block]
                mine = put[block].sum(0)
                later = put[block:].sum((0, 1))
                row[f"share, block {block}"] = mine.sum((-2, -1)) / total
                row |= localised(f"block {block}", mine, batch)
                row |= localised(f"from block {block}", later, batch)
                for head, one in enumerate(put[block]):
                    row[f"share, block {block}, head {head}"] = one.sum((-2, -1)) / total
                    row |= localised(f"block {block}, head {head}", one, batch)
            rows.append({key: values.flatten() for key, values in row.items()})
        return stacked(rows)

    def signs(self, pictures: Callable[[], Iterable[SceneBatch]]) -> Columns:
        """A row an object of pictures with several; a column "method | sign | place": the share of
        its positive or negative map, by a leading method, that lies there.
        """
        rows = []
        for numbers, batch in numbered(pictures()):
            if batch.concepts.shape[1] == 1:
                continue
            images, targets = self.asked(batch)
            row = about(numbers, batch)
            for name, negative in product(self.leading(), (False, True)):
                maps = self.explainer.maps(images, targets, name, negative).cpu()
                maps = without(maps, batch.unknown)
                sign = "negative" if negative else "positive"
                for place, share in where_it_lies(maps, batch.masks).items():
                    row[f"{name} | {sign} | {place}"] = share
            rows.append({key: values.flatten() for key, values in row.items()})
        return stacked(rows) if rows else {}

    def others(self, pictures: Callable[[], Iterable[SceneBatch]]) -> Columns:
        """A row an object of pictures with several; a column "pointing, method | others": how well
        the leading methods localise what speaks for a target and not for others.
        """
        rng, rows = np.random.default_rng(0), []
        drawn = torch.from_numpy(rng.choice(len(self.features), min(8, len(self.features)), False))
        for numbers, batch in numbered(pictures()):
            if batch.concepts.shape[1] == 1:
                continue
            images, targets = self.asked(batch)
            row = about(numbers, batch)
            others = {"nothing": None, "all prompts": self.features, "the picture's": targets}
            others["eight prompts"] = self.features[drawn.to(self.features.device)]
            for name, (among, against) in product(self.leading(), others.items()):
                maps = self.explainer.maps(images, targets, name, against=against).cpu()
                row |= localised(f"{name} | {among}", maps, batch)
            rows.append({key: values.flatten() for key, values in row.items()})
        return stacked(rows) if rows else {}

    def presence(self, pictures: Callable[[], Iterable[SceneBatch]]) -> Columns:
        """A row a picture: for an object that is there and for a concept that is not, how much
        relevance (its sum) each leading method finds, positive and negative, and the cosine. A
        picture that shows every concept is left out.
        """
        rng, rows = np.random.default_rng(0), []
        for batch in pictures():
            if batch.concepts.shape[1] == len(self.features):
                continue
            images = batch.images.to(self.explainer.device)
            missing = absent_concepts(rng, batch.concepts, len(self.features))
            asked = torch.stack([batch.concepts[:, 0], missing], 1)
            targets = self.features[asked.to(self.features.device)]
            row = {"cosine": self.explainer.scores(images, targets).cpu()}
            for name, negative in product(self.leading(), (False, True)):
                maps = self.explainer.maps(images, targets, name, negative)
                row[name + ", negative" * negative] = maps.sum((-2, -1)).cpu()
            rows.append(row)
        return stacked(rows) if rows else {}


def source_digest() -> str:
    """Of the code that measures, and of the drawings that scenes are made of."""
    digest = hashlib.sha256()
    for path in sorted(path for kind in ("py", "json", "png") for path in CODE.rglob(f"*.{kind}")):
        if not NOT_MEASURING & set(path.relative_to(CODE).parts):
            digest.update(f"{path.relative_to(CODE)}".encode() + path.read_bytes())
    return digest.hexdigest()


def numbered(batches: Iterable[SceneBatch]) -> Iterator[tuple[Int[Tensor, " image"], SceneBatch]]:
    """Batches with numbers of their pictures: the same picture has the same number, whether many
    or few are measured.
    """
    seen: Counter[int] = Counter()
    for batch in batches:
        count, objects = batch.concepts.shape
        yield 1_000_000 * objects + seen[objects] + torch.arange(count), batch
        seen[objects] += count


def about(numbers: Int[Tensor, " image"], batch: SceneBatch) -> dict[str, Tensor]:
    """Of every object: the number of its picture, how many objects are in that, and its area."""
    objects = batch.concepts.shape[1]
    return {
        "picture": numbers[:, None].expand(-1, objects),
        "objects": torch.full_like(batch.concepts, objects),
        "area": batch.areas(),
    }


def localised(name: str, maps: Tensor, batch: SceneBatch) -> dict[str, Tensor]:
    maps = without(resize_maps(maps, batch.masks.shape[-2:]), batch.unknown)
    return {
        f"pointing, {name}": pointing_game(maps, batch.masks),
        f"energy, {name}": energy_in_mask(maps, batch.masks),
    }


def timed(call: Callable, *arguments) -> tuple[float, Any]:
    """The seconds it takes, and what comes of it."""
    started = now()
    result = call(*arguments)
    return now() - started, result


def now() -> float:
    """Seconds, when all that a GPU was asked for is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def stacked(rows: list[dict[str, Tensor]]) -> Columns:
    return {key: torch.cat([row[key] for row in rows]).numpy() for key in rows[0]}
