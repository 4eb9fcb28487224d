"""Train an embedded model on emoji scenes: `python -m embedded.train ViT-emoji`.

Two contrastive losses, both on image-level labels only (no mask is ever a label):

- captions: every image of a batch against every caption (Radford et al., 2021);
- concepts: every image against a prompt of every concept. Its positives are the concepts present;
  each competes with the absent ones, not with the other positives.

The plain models (ViT-plain, RN-plain) are asked both of the features of the whole image, as public
CLIPs were, and of nothing else; so is SigLIP-emoji, with the sigmoid loss (Zhai et al., 2023), by
which each pair of image and text is a question by itself. The others get help: the loss of concepts
is asked of the patches too, each concept scored by the patches most like it (multiple-instance
learning), and in later stages of CLS after every block (deep supervision), so that it looks at
objects early.

The first stages show small images, each a window of the native grid: patches and objects have the
sizes they have at full size, at a part of the cost. The last stage shows full images while the
learning rate falls to zero. A run is a function of its seed and resumes where it was stopped.
Models that are named together see the same scenes, which are drawn once for all of them.
"""

import argparse
import csv
import math
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from clip_ import tokenize
from embedded import scenes
from files import whole_file
from image_utils import normalise_pixels
from model import CLIP, HEAD_WIDTH, ModifiedResNet, VisionTransformer
from siglip import ImageTower, SigLIP

CAPTION_TOKENS = 40  # enough for every caption; the attention is causal, so padding is cut off
PROMPT_TOKENS = 16
SCENES = 0  # seed of all scenes
VARIANTS = 16  # prompts drawn from per concept
SAVE_EVERY = 120  # seconds
LOG_EVERY = 60
LOGGED = ("caption", "concept", "patch", "deep", "top1")


@dataclass(frozen=True)
class Stage:
    """A stretch of training: `images` scenes of `size` px, with at most `objects` objects."""

    size: int
    images: int
    batch: int
    objects: int = 4
    zoom: float = 1.0  # objects larger than in other scenes by this factor
    deep: bool = False  # whether CLS is asked for the concepts after every block


@dataclass(frozen=True)
class Recipe:
    model: dict
    stages: tuple[Stage, ...]
    rates: tuple[tuple[int, float], ...]  # (images seen, factor of the rates), linear between
    dense: bool = True  # whether the patches are asked for the concepts
    network: type[CLIP | SigLIP] = CLIP
    varied: bool = False  # whether objects are drawn in more than their styles (`variations.py`)
    seed: int = 0  # of weights and prompts, not of scenes
    learning_rate: float = 1e-3  # of AdamW
    muon_rate: float = 2e-3  # of Muon
    weight_decay: float = 0.05


TEXT = {
    "embed_dim": 256,
    "context_length": 77,
    "vocab_size": 49408,
    "transformer_width": 128,
    "transformer_heads": 2,
    "transformer_layers": 3,
}
VIT = {
    "image_resolution": 224,
    "vision_layers": 6,
    "vision_width": 192,
    "vision_patch_size": 16,
}
RESNET = {
    "image_resolution": 224,
    "vision_layers": (1, 2, 2, 1),
    "vision_width": 32,
    "vision_patch_size": None,
}
PLAIN = {
    "stages": (
        Stage(96, 319_872, 384, objects=1, zoom=2.2),
        Stage(128, 319_872, 384, objects=2, zoom=1.6),
        Stage(160, 240_000, 384, objects=3, zoom=1.3),
        Stage(224, 142_848, 384),
    ),
    "rates": ((0, 0.0), (20_000, 1.0), (720_000, 1.0), (999_552, 0.3448), (1_022_592, 0.0)),
    "dense": False,
    "varied": True,
}
RECIPES = {
    "ViT-emoji": Recipe(
        model=TEXT | VIT,
        stages=(
            Stage(112, 320_000, 160, objects=2, zoom=1.6),
            Stage(160, 160_000, 160, objects=3, zoom=1.3, deep=True),
            Stage(224, 240_000, 128, deep=True),
        ),
        rates=((0, 0.0), (20_000, 1.0), (400_000, 1.0), (560_000, 1 / 3), (720_000, 0.0)),
    ),
    "RN-emoji": Recipe(
        model=TEXT | RESNET,
        stages=(
            Stage(128, 280_000, 160, objects=2, zoom=1.6),
            Stage(160, 160_000, 160, objects=3, zoom=1.3),
            Stage(224, 80_000, 128),
        ),
        rates=((0, 0.0), (10_000, 1.0), (280_000, 1.0), (440_000, 1 / 3), (520_000, 0.0)),
    ),
    "ViT-plain": Recipe(model=TEXT | VIT, **PLAIN),
    "RN-plain": Recipe(model=TEXT | RESNET, **PLAIN),
    "SigLIP-emoji": Recipe(
        model=VIT
        | {
            "context_length": CAPTION_TOKENS,  # each text is as long, and each token attends to it
            "vocab_size": TEXT["vocab_size"],
            "transformer_width": TEXT["transformer_width"],
            "transformer_layers": TEXT["transformer_layers"],
        },
        network=SigLIP,
        **PLAIN,
    ),
}


class SceneData(Dataset):
    """Scene number i of a stage: normalised later, on the training device."""

    def __init__(self, stage: Stage, varied: bool):
        self.stage, self.varied = stage, varied

    def __len__(self) -> int:
        return self.stage.images

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        stage, seed = self.stage, (SCENES, self.stage.size, i)
        odds = np.array(scenes.COUNTS[: stage.objects])
        rng = np.random.default_rng((*seed, 1))
        count = 1 + int(rng.choice(stage.objects, p=odds / odds.sum()))
        low, high = scenes.SCALES[count]
        scale = (low * stage.zoom, min(high * stage.zoom, 0.95))
        scene = scenes.draw_scene(
            seed, size=stage.size, count=count, scale=scale, varied=self.varied
        )
        present = torch.zeros(len(scenes.concepts()), dtype=torch.bool)
        present[[thing.concept for thing in scene.objects]] = True
        caption = caption_tokens(scene.caption)
        return torch.from_numpy(scene.image).permute(2, 0, 1), caption, present


@cache
def word_tokens(word: str) -> tuple[int, ...]:
    tokens = tokenize(word)[0]
    return tuple(tokens[1 : tokens.argmax()].tolist())


def caption_tokens(caption: str) -> Tensor:
    """As `tokenize`, cut to CAPTION_TOKENS; each word is looked up once for all captions."""
    start, end = tokenize("")[0, :2].tolist()
    ids = [start]
    for word in caption.split():
        ids.extend(word_tokens(word))
    ids.append(end)
    return F.pad(torch.tensor(ids), (0, CAPTION_TOKENS - len(ids)))


def concept_prompts(seed: int) -> Tensor:
    """Tokens of VARIANTS prompts for every concept: [concept, variant, token]."""
    rng = np.random.default_rng(seed)
    texts = []
    for concept in scenes.concepts():
        for variant in range(VARIANTS):
            phrases = concept.phrases
            phrase = phrases[0 if variant % 2 else rng.integers(len(phrases))]
            texts.append(scenes.PROMPTS[rng.integers(len(scenes.PROMPTS))].format(phrase))
    return tokenize(texts)[:, :PROMPT_TOKENS].unflatten(0, (-1, VARIANTS))


def window(
    positions: Tensor, grid: tuple[int, int], corner: tuple[int, int]
) -> Float[Tensor, "token width"]:
    """The position embeddings of the part of the native grid whose top left cell is `corner`, and
    of CLS or the mean token, if that is before them.
    """
    side = math.isqrt(len(positions))
    (rows, columns), (top, left) = grid, corner
    first, square = positions.split([len(positions) - side**2, side**2])
    square = square.unflatten(0, (side, side))[top : top + rows, left : left + columns]
    return torch.cat([first, square.flatten(0, 1)])


def encode_vit(
    visual: VisionTransformer, images: Tensor, corner: tuple[int, int], dense: bool
) -> tuple[Float[Tensor, "image token feature"], Float[Tensor, "block image feature"]]:
    """Features of all tokens (not dense: of CLS alone) after the last block, and of CLS after each
    of the others.
    """
    positions = window(visual.positional_embedding, visual.grid(images), corner)
    patches = visual.conv1(images).flatten(2).mT
    cls = visual.class_embedding.expand(len(patches), 1, -1).to(patches.dtype)
    x = visual.ln_pre(torch.cat([cls, patches], 1) + positions)
    early = []
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = through_block(block, x)
        early.append(x[:, 0])
    x = through_block(last, x) if dense else cls_through_block(last, x)
    return visual.project(x), visual.project(torch.stack(early))


def encode_resnet(
    visual: ModifiedResNet, images: Tensor, corner: tuple[int, int], dense: bool
) -> tuple[Float[Tensor, "image token feature"], None]:
    """Features of the attention pool and, if dense, of each cell as if it saw that cell alone."""
    pool = visual.attnpool
    positions = window(pool.positional_embedding, visual.grid(images), corner)
    x = visual.trunk(images.contiguous(memory_format=torch.channels_last))
    pooled = pool.pool(x, positions, x.new_zeros(len(x), 1, x.shape[1]))
    if not dense:
        return pooled, None
    cells = pool.c_proj(pool.v_proj(x.flatten(2).mT + positions[1:]))
    return torch.cat([pooled, cells], 1), None


def encode_siglip(
    visual: ImageTower, images: Tensor, corner: tuple[int, int], dense: bool
) -> tuple[Float[Tensor, "image 1 feature"], None]:
    """Features of the attention pool: there is no other loss of a SigLIP."""
    positions = visual.embeddings.position_embedding.weight
    positions = window(positions, visual.grid(images), corner)
    return visual.encode(images, positions).unsqueeze(1), None


@torch.compile
def through_block(block: nn.Module, x: Tensor) -> Tensor:
    """As the block itself, but with plain products: with few tokens they train faster on a CPU."""
    q, k, v = block.attn.queries_keys_values(block.ln_1(x))
    return block.finish(x, block.attn.probabilities(q, k).to(v.dtype) @ v)


@torch.compile
def cls_through_block(block: nn.Module, x: Tensor) -> Tensor:
    """CLS after a block: nothing else of the last one reaches the features."""
    q, k, v = block.attn.cls_query_keys_values(block.ln_1(x))
    return block.finish(x[:, :1], block.attn.probabilities(q, k).to(v.dtype) @ v)


def concept_loss(logits: Tensor, present: Tensor) -> Tensor:
    """-log softmax of each concept present [image, concept] among it and the absent ones."""
    absent = logits.masked_fill(present, -math.inf).logsumexp(-1, keepdim=True)
    return F.softplus(absent - logits)[present].mean()


def sigmoid_loss(logits: Float[Tensor, "image text"], same: Tensor) -> Float[Tensor, ""]:
    """-log sigmoid of each pair of image and text, negated where they do not belong together."""
    return -F.logsigmoid(torch.where(same, logits, -logits)).sum(-1).mean()


ENCODE = {
    VisionTransformer: encode_vit,
    ModifiedResNet: encode_resnet,
    ImageTower: encode_siglip,
}


def losses(
    model: CLIP | SigLIP, images, captions, prompts, present, corner, dense: bool, deep: bool
) -> dict[str, Tensor]:
    """The losses of one batch, and how often a single object is named right."""
    features, early = ENCODE[type(model.visual)](model.visual, images, corner, dense)
    features = F.normalize(features.float(), dim=-1)
    longest = max(captions.shape[1], prompts.shape[1])
    texts = torch.cat([F.pad(t, (0, longest - t.shape[1])) for t in (captions, prompts)])
    texts = F.normalize(model.encode_text(texts).float(), dim=-1)
    texts, concepts = texts.split([len(captions), len(prompts)])
    scale = model.logit_scale.exp()
    whole = features[:, 0]
    logits = scale * whole @ texts.T
    match = torch.arange(len(logits), device=logits.device)
    scores = scale * whole @ concepts.T
    single = present.sum(1) == 1
    right = present.gather(1, scores.argmax(1, keepdim=True))[single]
    if isinstance(model, SigLIP):
        found = {
            "caption": sigmoid_loss(logits + model.logit_bias, match[:, None] == match),
            "concept": sigmoid_loss(scores + model.logit_bias, present),
        }
    else:
        found = {
            "caption": (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2,
            "concept": concept_loss(scores, present),
        }
    if dense:
        patch_scores = (scale * features[:, 1:] @ concepts.T).logsumexp(1)
        found["patch"] = concept_loss(patch_scores, present)
    if deep:
        early = F.normalize(early.float(), dim=-1)
        found["deep"] = concept_loss(scale * early @ concepts.T, present.expand(len(early), -1, -1))
    found["loss"] = sum(found.values())
    found["top1"] = right.float().mean()
    return found


class Training:
    """A run: everything that a checkpoint holds, and the step that changes it."""

    def __init__(self, recipe: Recipe, device: str):
        torch.manual_seed(recipe.seed)
        self.recipe, self.device = recipe, device
        self.halves = bfloat16_is_quicker(device)
        self.model = recipe.network(**recipe.model)
        self.model = self.model.to(device).train()
        self.prompts = concept_prompts(recipe.seed)
        self.optimizers = make_optimizers(self.model, recipe)
        self.rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.total = sum(stage.images for stage in recipe.stages)
        self.seen = 0

    def state(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "seen": self.seen,
        }

    def resume(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.seen = state["seen"]

    def set_rates(self) -> None:
        factor = np.interp(self.seen, *zip(*self.recipe.rates, strict=True))
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * float(factor)

    def step(
        self, images: Tensor, captions: Tensor, present: Tensor, deep: bool
    ) -> dict[str, Tensor]:
        """Learn from a batch, on the device but for its captions; its losses."""
        images = normalise_pixels(images / 255)
        rng = np.random.default_rng((self.recipe.seed, self.seen))
        side, rows = self.model.visual.input_resolution, self.model.visual.grid(images)[0]
        room = (side - images.shape[-1]) * rows // images.shape[-1]
        corner = tuple(rng.integers(0, room + 1, size=2).tolist())
        variant = torch.from_numpy(rng.integers(VARIANTS, size=len(self.prompts)))
        prompts = self.prompts[torch.arange(len(variant)), variant].to(self.device)
        self.set_rates()
        # The attention is causal, so that padding behind the longest caption changes nothing.
        captions = captions[:, : int(captions.argmax(-1).max()) + 1].to(self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.halves):
            dense = self.recipe.dense
            parts = losses(self.model, images, captions, prompts, present, corner, dense, deep)
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.model.logit_scale.data.clamp_(max=math.log(100))
        self.seen += len(images)
        return {name: part.detach() for name, part in parts.items()}


def bfloat16_is_quicker(device: str) -> bool:
    """Whether products take less time in bfloat16: on processors without it, they take far more."""
    if torch.device(device).type == "cuda":  # too quick to be told apart by the clock
        return torch.cuda.is_bf16_supported(including_emulation=False)

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(512, 512, device=device, dtype=dtype)
        (matrix @ matrix).sum().item()
        started = time.perf_counter()
        (matrix @ matrix).sum().item()
        return time.perf_counter() - started

    return seconds(torch.bfloat16) < seconds(torch.float32)


class Muon(torch.optim.Optimizer):
    """Jordan et al., 2024: a matrix moves by its momentum, made orthogonal, so that all its
    directions learn alike; as far as AdamW would move it in the mean (Liu et al., 2025, 0.2 RMS).

    torch.optim.Muon does this in bfloat16, which takes minutes a step where a CPU has none.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                alike.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in alike.items():
                updates = torch.stack([self.momentum(matrix, group) for matrix in matrices])
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                for matrix, update in zip(matrices, orthogonal(updates), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(rate * update)

    def momentum(self, matrix: nn.Parameter, group: dict) -> Tensor:
        """Nesterov's momentum of the gradient."""
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        mean = state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
        return matrix.grad.lerp(mean, group["momentum"])


def orthogonal(x: Float[Tensor, "matrix row column"]) -> Float[Tensor, "matrix row column"]:
    """Singular values brought near one by five steps of Newton and Schulz (Jordan et al., 2024)."""
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def make_optimizers(model: CLIP, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    matrices, decayed, other = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and ("resblocks" in name or "encoder.layers" in name):
            matrices.append(parameter)
        elif parameter.ndim >= 2 and "embedding" not in name:
            decayed.append(parameter)
        else:
            other.append(parameter)
    muon = Muon(matrices, lr=recipe.muon_rate, weight_decay=recipe.weight_decay)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": other, "weight_decay": 0.0},
    ]
    return [muon, torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)]


def batches(recipe: Recipe, seen: int, device: str, workers: int):
    """All batches of the recipe after the first `seen` images, and whether they ask deep."""
    for stage in recipe.stages:
        start = min(seen, stage.images)
        seen -= start
        loader = DataLoader(
            SceneData(stage, recipe.varied),
            batch_size=stage.batch,
            sampler=range(start, stage.images),
            num_workers=workers,
            prefetch_factor=8 if workers else None,
            pin_memory=torch.device(device).type == "cuda",
        )
        for images, captions, present in loader:
            yield images.to(device), captions, present.to(device), stage.deep


def train(recipes: dict[Path, Recipe], folder: Path, device: str, workers: int) -> None:
    """Train models on the same scenes, from the checkpoint in `folder`, if there is one, to the
    end; write the weights of each to its path.

    Raises ValueError for recipes that do not see the same scenes, and for a folder with a
    checkpoint of other models.
    """
    if len({(recipe.stages, recipe.varied) for recipe in recipes.values()}) > 1:
        raise ValueError("models are trained together if their recipes have the same scenes")
    runs = {path.stem: Training(recipe, device) for path, recipe in recipes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.pt", folder / "log.csv"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        if saved.keys() != runs.keys():
            raise ValueError(f"{checkpoint} is not of {', '.join(runs)}: give another --folder")
        for name, run in runs.items():
            run.resume(saved[name])
    first = next(iter(runs.values()))
    saved = logged = time.monotonic()
    history = {name: [] for name in runs}
    progress = tqdm(total=first.total, initial=first.seen, unit="image", desc=", ".join(runs))
    for batch in batches(first.recipe, first.seen, device, workers):
        for name, run in runs.items():
            history[name].append(run.step(*batch))
        progress.update(len(batch[0]))
        now = time.monotonic()
        if now - logged > LOG_EVERY or first.seen == first.total:
            for name, parts in history.items():
                means = {key: mean([p[key].item() for p in parts if key in p]) for key in LOGGED}
                write_row(
                    log, {"model": name, "images": first.seen, "seconds": now - logged} | means
                )
                parts.clear()
            logged = now
        if now - saved > SAVE_EVERY or first.seen == first.total:
            with whole_file(checkpoint) as unfinished:
                torch.save({name: run.state() for name, run in runs.items()}, unfinished)
            saved = now
    progress.close()
    for (path, recipe), run in zip(recipes.items(), runs.values(), strict=True):
        weights = {k: v.half().contiguous().cpu() for k, v in run.model.state_dict().items()}
        with whole_file(path) as unfinished:
            save_file(weights, unfinished, metadata=configuration(recipe))
        print(f"wrote {path}")


def configuration(recipe: Recipe) -> dict[str, str]:
    """What a file of weights says of its network; see `checkpoints/configuration.py`."""
    if recipe.network is SigLIP:
        return {"network": "SigLIP"}
    model = recipe.model
    cells = 1 if isinstance(model["vision_layers"], int) else 32
    image, text = cells * model["vision_width"] // HEAD_WIDTH, model["transformer_heads"]
    return {"activation": "quickgelu", "heads": f"{image}, {text}"}


def mean(values: list[float]) -> float:
    """Of what there is: a batch may have no single object, and a stage no deep loss."""
    values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def write_row(path: Path, row: dict[str, str | float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description="Train embedded models; resumes where it stopped")
    parser.add_argument(
        "names",
        nargs="+",
        choices=RECIPES,
        metavar="NAME",
        help=f"of {', '.join(RECIPES)}; several, if of the same scenes",
    )
    parser.add_argument("--folder", type=Path, help="checkpoint and log (default: runs/<names>)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    args = parser.parse_args()
    folder = args.folder or Path("runs") / "+".join(args.names)
    recipes = {scenes.HERE / f"{name}.safetensors": RECIPES[name] for name in args.names}
    try:
        train(recipes, folder, args.device, args.workers)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
