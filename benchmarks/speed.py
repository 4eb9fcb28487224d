"""Time and memory of saliency, against one forward pass and against what there was before.

    python benchmarks/speed.py                every case, half an hour to an hour on two cores
    python benchmarks/speed.py --seconds 30   steadier figures

Networks have the official shapes and random weights, which cost what trained ones cost. For each
network, number of images, number of targets K and method, the script times one call of
`relevance_maps` for all images and targets, and two yardsticks:

    forward    one fused inference forward of the same images: no saliency can do without it
    original   the algorithm as it was published: for each image and each target, a forward pass
               that records attention, a full backward pass through every parameter, and the
               product of the relevancy matrices of all blocks

The three take turns, round after round, and ratios are taken within a round: what slows the machine
down for a while slows all three. Reported are medians over rounds, with the quartiles of the ratio.

ResNets are in `speed_resnet.py`: every CAM, against PyPI's grad-cam.

Two things are measured in part and scaled. The original handles one pair of image and target at a
time, so its cost is exactly linear in pairs: each round times a single pair. And `all grads`, whose
cost is linear in pairs but for one forward pass, runs on as many of the images as `--pairs` allows
(one at least), with all targets; its time is then scaled to all images, marked with ~, and its
memory left out.

Memory is the peak of one call beyond what model and inputs hold: on CPU by how much the call raises
the high-water mark of resident memory in a fresh process, on CUDA what PyTorch's allocator counts.
"""

import argparse
import functools
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from speed_resnet import SHAPES as RESNETS
from speed_resnet import resnet_rows
from table import Aim, Row, machine, peak_mib, quartiles, save, show, show_verdicts, take_turns

from model import CLIP, LayerNorm, VisionTransformer
from pytorch_grad_cam import CAMS
from saliency import relevance_maps

# embed_dim, image_resolution, vision_layers, vision_width, vision_patch_size
SHAPES = {
    "ViT-B/32": (512, 224, 12, 768, 32),
    "ViT-B/16": (512, 224, 12, 768, 16),
    "ViT-L/14": (768, 224, 24, 1024, 14),
    "ViT-L/14@336px": (768, 336, 24, 1024, 14),
}
SMALL = (32, 24, 3, 128, 8)  # a network for checks and for warming up
ORIGINALS = ("last grad", "gradcam", "all grads")  # methods that the original had
METHODS = (
    *ORIGINALS,
    "direct",
    "direct signed",
    "path",
    "Grad-ECLIP",
    "LeGrad",
    "MaskCLIP",
    "SCLIP",
    "CLIP Surgery",
    "rollout",
    "attention",
)
POOLS = ("pool", "pool signed", "Grad-ECLIP", "MaskCLIP", "CLIP Surgery")
WHOLE = ("all grads", "LeGrad")  # their time grows with pairs of image and target
FORWARD, ORIGINAL = "forward", "original, one pair"


AIMS = (
    Aim("last grad", 1, "forwards", 1.0),
    Aim("last grad", 9, "forwards", 1.05),
    Aim("last grad", 64, "forwards", 1.2),
    Aim("last grad", 9, "speed_up", 25),
    Aim("last grad", 64, "speed_up", 100),
    Aim("all grads", 1, "forwards", 2.5),
    *(
        Aim(method, targets, "forwards", 1.2 if targets == 64 else 1.1)
        for method in ("direct", "direct signed", "attention", "MaskCLIP", "Grad-ECLIP")
        for targets in (1, 9, 64)
    ),
    Aim("path", 9, "forwards", 1.15),
    Aim("path", 64, "forwards", 1.6),
    Aim("LeGrad", 9, "forwards", 1.5),
    Aim("CLIP Surgery", 64, "forwards", 2.0),
    Aim("pool", 9, "forwards", 1.1),
    Aim("GradCAM", 9, "forwards", 1.2),
    Aim("AblationCAM", 1, "speed_up", 20, batch=1),
    Aim("ScoreCAM", 9, "forwards", 2048, batch=1),
)


@dataclass(frozen=True)
class Settings:
    device: str
    dtype: torch.dtype
    threads: int
    seconds: float
    pairs: int
    memory: bool


@dataclass(frozen=True)
class Case:
    """`step` is a method, FORWARD or ORIGINAL; `run` is how many of the images are really run."""

    model: str
    step: str
    batch: int
    targets: int
    run: int

    @property
    def scale(self) -> float:
        return self.batch / self.run


# ---- What is measured


def build(shape: tuple[int, ...], settings: Settings) -> VisionTransformer:
    """An image encoder with random weights, as `load` would return it: evaluation mode, trainable.

    Made in its dtype from the start: the making leaves no higher memory mark than the model.
    """
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(settings.dtype)
    with torch.device(settings.device):
        visual = CLIP(*shape, 1, 1, 64, 1, 1).visual.eval()
    torch.set_default_dtype(usual)
    if settings.dtype.itemsize < torch.float32.itemsize:  # as `convert_weights` has it
        for module in visual.modules():
            if isinstance(module, LayerNorm):
                module.float()
    return visual


def inputs(visual: VisionTransformer, batch: int, targets: int) -> tuple[Tensor, Tensor]:
    """Random images [batch, 3, side, side] and target features [targets, feature]."""
    side = visual.input_resolution
    like = visual.conv1.weight
    images = torch.randn(batch, 3, side, side, dtype=like.dtype, device=like.device)
    directions = torch.randn(targets, visual.output_dim, dtype=like.dtype, device=like.device)
    return images, directions


@torch.inference_mode()
def forward(visual: VisionTransformer, images: Tensor) -> Tensor:
    return visual(images)


def original(
    visual: VisionTransformer, image: Tensor, target: Tensor, method: str = "last grad"
) -> Tensor:
    """Relevance of each patch for one image [1, 3, H, W] and one target [feature], as published."""
    visual.zero_grad()
    similarity = F.cosine_similarity(visual(image), target, dim=-1)
    similarity.sum().backward()
    blocks = visual.transformer.resblocks
    attention = blocks[0].attn_probs
    relevancy = torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    for block in blocks[-1:] if method == "gradcam" else blocks:
        gradient = (block if method == "all grads" else blocks[-1]).attn_grad
        cam = (gradient * block.attn_probs).clamp(min=0).mean(0)
        relevancy = relevancy + cam @ relevancy
    return relevancy[0, 1:]


def step(case: Case, visual: VisionTransformer) -> Callable[[], object]:
    """The call that `case` measures, inputs bound."""
    images, targets = inputs(visual, case.run, max(case.targets, 1))
    if case.step == FORWARD:
        return functools.partial(forward, visual, images)
    if case.step == ORIGINAL:
        return functools.partial(original, visual, images[:1], targets[0])
    return functools.partial(relevance_maps, visual, images, targets, case.step)


def largest_difference() -> float:
    """How far the original's maps are from ours, relative to their maximum; small net, float64.

    A race between two algorithms means something only if both arrive at the same place.
    """
    visual = build(SMALL, Settings("cpu", torch.float64, 1, 0, 1, False))
    images, targets = inputs(visual, 2, 3)
    worst = 0.0
    for method in ORIGINALS:
        ours = relevance_maps(visual, images, targets, method).flatten(2)
        theirs = [[original(visual, x[None], t, method) for t in targets] for x in images]
        plain = torch.stack([torch.stack(row) for row in theirs])
        worst = max(worst, float((ours - plain).abs().max() / plain.abs().max()))
    if not worst < 1e-9:
        raise SystemExit(f"relevance_maps and the original's algorithm differ by {worst:.1e}")
    return worst


# ---- Time


def time_method(
    case: Case, visual: VisionTransformer, settings: Settings
) -> tuple[Row, list[float], list[float]]:
    """The row of a method, and the seconds of the forward passes and of the original's runs."""
    whole = Case(case.model, FORWARD, case.batch, 0, case.batch)
    single = Case(case.model, ORIGINAL, 1, 1, 1)
    calls = [step(whole, visual), step(case, visual), step(single, visual)]
    # What had to be cut down is so long, and so far from every aim, that one round will do.
    cut_down = case.step in WHOLE and case.batch * case.targets > settings.pairs
    rounds = take_turns(calls, 1 if cut_down else 3, settings.seconds, settings.device)
    forwards, methods, originals = (list(column) for column in zip(*rounds, strict=True))
    methods = [case.scale * seconds for seconds in methods]
    ratios = [m / f for m, f in zip(methods, forwards, strict=True)]
    pairs = case.batch * case.targets
    gains = [pairs * o / m for m, o in zip(methods, originals, strict=True)]
    low, high = quartiles(ratios)
    row = Row(
        case.model,
        case.batch,
        case.targets,
        case.step,
        milliseconds=1e3 * statistics.median(methods),
        forwards=statistics.median(ratios),
        forwards_low=low,
        forwards_high=high,
        speed_up=statistics.median(gains) if case.step in ORIGINALS else math.nan,
        peak_mib=math.nan if case.scale != 1 else memory(case, settings),
        rounds=len(rounds),
        scaled=case.scale != 1,
    )
    return row, forwards, originals


# ---- Memory


@functools.cache
def memory(case: Case, settings: Settings) -> float:
    """Peak memory of one call, in MiB."""
    if not settings.memory:
        return math.nan
    return peak_mib(functools.partial(prepare, case, settings), settings.device, settings.threads)


def prepare(case: Case, settings: Settings) -> Callable[[], object]:
    """The call of `case` on a network of its own, warmed up on a small one.

    The warm-up loads code and starts threads, which are nobody's working memory.
    """
    warm_up = build(SMALL, settings)
    step(Case("", case.step, 1, 1, 1), warm_up)()
    return step(case, build(SHAPES[case.model], settings))


# ---- The table


def rows_of(
    model: str, batch: int, targets: list[int], methods: list[str], settings: Settings
) -> list[Row]:
    """All rows of a model and a batch size, printed as they come; the yardsticks' rows follow."""
    visual = build(SHAPES[model], settings)
    rows, forwards, originals = [], [], []
    for count in targets:
        for method in methods:
            run = max(1, min(batch, settings.pairs // count)) if method in WHOLE else batch
            case = Case(model, method, batch, count, run)
            row, *yardsticks = time_method(case, visual, settings)
            forwards += yardsticks[0]
            originals += yardsticks[1]
            rows.append(row)
            show(row)
    usual = statistics.median(forwards)
    for case, seconds in [
        (Case(model, FORWARD, batch, 0, batch), forwards),
        (Case(model, ORIGINAL, 1, 1, 1), originals),
    ]:
        median = statistics.median(seconds)
        row = Row(
            model,
            case.batch,
            case.targets,
            case.step,
            milliseconds=1e3 * median,
            # Of the batch at hand: a single pair, against the forward pass of so many images.
            forwards=median / usual if case.batch == batch else math.nan,
            peak_mib=memory(case, settings),
            rounds=len(seconds),
        )
        rows.append(row)
        show(row)
    return rows


def memory_rows(model: str, settings: Settings) -> list[Row]:
    """One image through a large network: memory alone."""
    rows = []
    for name, targets in [(FORWARD, 0), ("last grad", 1), (ORIGINAL, 1)]:
        peak = memory(Case(model, name, 1, targets, 1), settings)
        rows.append(Row(model, 1, targets, name, math.nan, peak_mib=peak))
        show(rows[-1])
    return rows


def show_header(settings: Settings, difference: float) -> None:
    print(f"on       {machine(settings.device)}, {settings.threads} threads")
    print(f"with     torch {torch.__version__}, {str(settings.dtype).removeprefix('torch.')}")
    print(f"maps     ours and the original's differ by {difference:.0e} (small network, float64)")
    print("forwards time over one fused inference forward of the same images, [quartiles]")
    print("speed-up of RN50: over PyPI's grad-cam (see speed_resnet.py); of ViTs:")
    print("         over the original's algorithm: a forward and a full backward for each pair of")
    print("         image and target; one pair is timed in each round and multiplied by the number")
    print("         of pairs (it is a loop: its cost is linear in them)")
    print("MiB      peak memory of one call, beyond model and inputs")
    print(f"~        timed on part of the images (at most {settings.pairs} pairs), scaled to all\n")
    print(
        f"{'model':<15}{'batch':>5}{'K':>4}  {'method':<19}{'ms':>13}{'forwards':>10}{'':>18}"
        f"{'speed-up':>12}{'MiB':>11}{'rounds':>7}"
    )


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time and memory of saliency, in forward passes and against what there was."
    )
    networks = ["ViT-B/32", "ViT-B/16", "RN50"]
    known = [*SHAPES, *RESNETS]
    parser.add_argument("--models", nargs="+", choices=known, default=networks, metavar="MODEL")
    parser.add_argument("--batches", nargs="+", type=int, default=[8], metavar="IMAGES")
    parser.add_argument("--targets", nargs="+", type=int, default=[1, 9, 64], metavar="K")
    every = list(dict.fromkeys((*METHODS, *CAMS, *POOLS)))
    parser.add_argument("--methods", nargs="+", choices=every, default=every, metavar="METHOD")
    parser.add_argument("--seconds", type=float, default=3, help="time for each line of the table")
    parser.add_argument(
        "--pairs",
        type=int,
        default=72,
        help="most pairs of image and target `all grads` really runs",
    )
    parser.add_argument(
        "--memory-models",
        nargs="*",
        choices=SHAPES,
        default=["ViT-L/14@336px"],
        metavar="MODEL",
        help="measured with one image, for memory alone",
    )
    parser.add_argument("--no-memory", action="store_true", help="measure time alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    dtypes = ["float32", "float64", "float16", "bfloat16"]
    parser.add_argument("--dtype", choices=dtypes, default="float32")
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="write the table there too")
    return parser.parse_args(arguments)


def main() -> None:
    chosen = parse_arguments()
    settings = Settings(
        chosen.device,
        getattr(torch, chosen.dtype),
        chosen.threads,
        chosen.seconds,
        chosen.pairs,
        not chosen.no_memory,
    )
    torch.set_num_threads(settings.threads)
    show_header(settings, largest_difference())
    rows: list[Row] = []
    for model in chosen.models:
        for batch in chosen.batches:
            if model in RESNETS:
                named = [method for method in chosen.methods if method in (*CAMS, *POOLS)]
                rows += resnet_rows(model, batch, named, settings)
            else:
                chosen_methods = [method for method in chosen.methods if method in METHODS]
                rows += rows_of(model, batch, chosen.targets, chosen_methods, settings)
            print()
    if settings.memory:
        for model in chosen.memory_models:
            rows += memory_rows(model, settings)
        print()
    show_verdicts(rows, AIMS)
    if chosen.output:
        save([asdict(row) for row in rows], chosen.output, settings.device)


if __name__ == "__main__":
    main()
