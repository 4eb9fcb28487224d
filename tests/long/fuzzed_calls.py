"""Images, targets, texts, words, options and overlays of every shape and kind."""

from functools import cache, partial

import hypothesis.strategies as st
import numpy as np
import open_clip.tokenizer
import PIL.Image
import torch
from hypothesis.extra import numpy as arrays
from outcomes import Tally, for_all, mostly
from torch import Tensor

from cams import CAMS
from clip_ import tokenize
from image_utils import show_cam_on_image, show_overlapped_cam
from model import CLIP
from rn_cam import rn_perword_relevance, rn_relevance
from saliency import methods, relevance_maps
from small_clip import small_resnet, small_vit
from vit_cam import vit_block_vis, vit_perword_relevance, vit_relevance

SIDES = {"ViT": 32, "RN": 64}
COSTLY = ("ScoreCAM", "GScoreCAM", "AblationCAM", "FullGrad", "occlusion")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OTHERS = (torch.uint8, torch.int64, torch.bool, torch.complex64)
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=6),
    st.binary(max_size=6),
    st.lists(st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.builds(PIL.Image.new, st.just("RGB"), st.just((32, 32))),
    st.builds(np.zeros, st.just((1, 3, 32, 32)), st.sampled_from(["float32", "uint8", "O"])),
)


@cache
def clip(kind: str, dtype: torch.dtype = torch.float32) -> CLIP:
    return (small_vit() if kind == "ViT" else small_resnet()).to(dtype)


@st.composite
def kind_and_method(draw) -> tuple[str, str]:
    """Methods that run the network many times come less often."""
    kind = draw(st.sampled_from(list(SIDES)))
    names = list(methods(clip(kind)))
    quick = [name for name in names if name not in COSTLY]
    return kind, draw(mostly(st.sampled_from(quick), st.sampled_from(names)))


@st.composite
def tensors(draw, *usual: tuple[int, ...]) -> tuple[Tensor, bool]:
    """A tensor, often of a usual shape and finite, and whether nothing is wrong with it."""
    anything = st.lists(st.integers(0, 12), max_size=5).map(tuple)
    shape = draw(mostly(st.sampled_from(usual), anything))
    dtype = draw(mostly(st.sampled_from(FLOATS), st.sampled_from(OTHERS)))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    poison = draw(mostly(st.none(), st.sampled_from([torch.nan, torch.inf, -torch.inf, 1e30])))
    if poison is not None and values.numel():
        values.view(-1)[draw(st.integers(0, values.numel() - 1))] = poison
    values = values.to(dtype)
    form = draw(st.sampled_from(["plain", "strided", "part of a graph", "inference"]))
    if form == "strided" and values.ndim > 1:
        values = values.mT.contiguous().mT
    elif form == "part of a graph" and dtype in FLOATS:
        values.requires_grad_()
    elif form == "inference":
        with torch.inference_mode():
            values = values.clone()
    return values, shape in usual and dtype in FLOATS and poison is None


def images_and_targets(tally: Tally, cases: int) -> None:
    """Given to `relevance_maps`, with every method; an answer is that of float64."""

    @for_all(
        cases,
        about=kind_and_method(),
        vit_images=tensors((1, 3, 32, 32), (3, 3, 32, 32), (2, 3, 40, 24)),
        resnet_images=tensors((1, 3, 64, 64), (2, 3, 64, 64), (1, 3, 96, 64)),
        targets=tensors((1, 16), (3, 16)),
        instead=mostly(st.none(), st.tuples(st.integers(0, 1), junk)),
    )
    def judge(about, vit_images, resnet_images, targets, instead):
        kind, method = about
        images, valid = vit_images if kind == "ViT" else resnet_images
        given, valid = [images, targets[0]], valid and targets[1]
        if instead is not None:
            given[instead[0]], valid = instead[1], False

        def fault(maps: Tensor) -> str:
            if not maps.isfinite().all() or maps.requires_grad:
                return "maps that are not finite, or part of a graph"
            if (maps < 0).any() and not getattr(methods(clip(kind))[method], "signed", False):
                return "negative relevance of a method that is not signed"
            if not valid:
                return ""
            exact = (one.detach().clone().double() for one in given)
            return different(maps, relevance_maps(clip(kind, torch.float64), *exact, method), 2e-2)

        answer = partial(relevance_maps, clip(kind), *given, method)
        tally.judge(f"{method}, {described(*given)}", answer, fault, valid=valid)


def lengths_of_targets(tally: Tally, cases: int) -> None:
    """1e-24 to 1e24, in any type that holds them: the maps are the same."""

    @for_all(
        cases,
        about=kind_and_method(),
        exponent=st.integers(-24, 24),
        dtype=st.sampled_from(FLOATS),
        number=st.integers(0, 99),
    )
    def judge(about, exponent, dtype, number):
        kind, method = about
        numbers = torch.Generator().manual_seed(number)
        images = torch.randn(1, 3, SIDES[kind], SIDES[kind], generator=numbers)
        unit = torch.randn(2, 16, generator=numbers)
        targets = (unit.double() * 10.0**exponent).to(dtype)
        if not targets.isfinite().all() or lost_digits(targets):
            return
        unit = (targets.double() / 10.0**exponent).float()  # rounded as the targets are
        tally.judge(
            f"{method}, targets times 1e{exponent} in {dtype}",
            partial(relevance_maps, clip(kind), images, targets, method),
            lambda maps: different(maps, relevance_maps(clip(kind), images, unit, method), 1e-2),
            valid=True,
        )


def lost_digits(values: Tensor) -> bool:
    """Whether some are near the smallest number of their type."""
    return bool((values.abs() < 100 * torch.finfo(values.dtype).smallest_normal).any())


def texts(tally: Tally, cases: int) -> None:
    """Any text: the tokens of OpenCLIP's tokenizer, and finite features of them."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer()

    @for_all(
        cases,
        text=st.one_of(
            st.text(max_size=60),
            st.text("aé ß.,'’0123<>&;\u200d🐎️\n\t日本", max_size=80),
            st.from_regex(r"(&\w{1,6};|&#\d{1,7};| \w+'s ){0,8}", fullmatch=True),
            st.lists(st.text(max_size=20), max_size=3),
            junk,
        ),
    )
    def judge(text):
        def fault(tokens: Tensor) -> str:
            if not torch.equal(tokens, tokenizer(text)):
                return "other tokens than OpenCLIP's"
            with torch.no_grad():
                features = clip("ViT").encode_text(tokens)
            return "" if features.isfinite().all() else "features that are not finite"

        tally.judge(described(text), partial(tokenize, text), fault)


def words(tally: Tally, cases: int) -> None:
    """Words that a text has and has not, by name and by position."""
    alphabet = st.sampled_from(["a", "cow", "Cow,", "and", "sheep.", "(the", "…", "'", "İ", "ß"])

    @for_all(
        cases,
        kind=st.sampled_from(list(SIDES)),
        text=st.lists(alphabet, max_size=6).map(" ".join),
        word=mostly(
            st.one_of(alphabet, st.integers(-7, 7), st.just("cow and"), st.text(max_size=3)), junk
        ),
    )
    def judge(kind, text, word):
        given = torch.ones(1, 3, SIDES[kind], SIDES[kind]), text, clip(kind), tokenize
        if kind == "ViT":
            answer = partial(vit_perword_relevance, *given, "cpu", word)
        else:
            answer = partial(rn_perword_relevance, *given, CAMS["GradCAM"], "cpu", word)
        tally.judge(
            f"{word!r} of {text!r}, {kind}",
            answer,
            lambda found: "" if within(found[0], 0, 1) else "relevance outside [0, 1]",
        )


def options(tally: Tally, cases: int) -> None:
    """Models, methods, layers and blocks: those that fit, those of others, and anything else."""
    vit, resnet = clip("ViT"), clip("RN")
    image, large, target = torch.ones(1, 3, 32, 32), torch.ones(1, 3, 64, 64), torch.ones(1, 16)
    layer, some_cams = resnet.visual.layer4[-1], list(CAMS.values())[:4]
    models = vit, vit.visual, resnet, resnet.visual, torch.nn.Linear(2, 2)

    def call_maps(model, method, negative, block):
        chosen = {"negative": negative, "start_block": block}
        return relevance_maps(model, image, target, method, **chosen)

    def call_vit(model, method):
        return vit_relevance(image, target, model, "cpu", method)

    def call_block(model, block):
        return vit_block_vis(image, target, model, block, "cpu")

    def call_resnet(model, cam):
        return rn_relevance(large, target, model, cam, "cpu")

    def call_cam(cam, layers, encoding):
        return cam(model=resnet.visual, target_layers=layers)(large, encoding)

    def usually(*fitting) -> st.SearchStrategy:
        other = st.one_of(st.sampled_from([*models, *some_cams, [layer]]), junk)
        return mostly(st.sampled_from(fitting), other)

    vits, resnets = usually(vit, vit.visual), usually(resnet, resnet.visual)
    blocks = mostly(st.integers(-6, 6), st.one_of(st.floats(-2, 2), junk))
    functions = {
        call_maps: (vits, usually(*methods(vit)), st.booleans(), blocks),
        call_vit: (vits, usually(*methods(vit), *methods(resnet))),
        call_block: (vits, blocks),
        call_resnet: (resnets, usually(*some_cams)),
        call_cam: (
            st.sampled_from(some_cams),
            usually([layer], layer, [resnet.visual.layer2], [resnet.visual.attnpool], []),
            usually(target),
        ),
    }

    @for_all(cases, chosen=st.sampled_from(list(functions)), data=st.data())
    def judge(chosen, data):
        given = [data.draw(one) for one in functions[chosen]]
        said = f"{chosen.__name__}: {described(*given)}"
        modes = vit.training, resnet.training
        tally.judge(said, partial(chosen, *given))
        if modes != (vit.training, resnet.training):
            tally.wrong.append(f"{said}: leaves the model in another mode")


def overlays(tally: Tally, cases: int) -> None:
    """Pictures and maps of any type, size and range: an overlay's colours are in [0, 1]."""

    def unit(*shape: int) -> st.SearchStrategy:
        return arrays.arrays("float32", shape, elements=st.floats(0, 1, width=32))

    odd = st.one_of(
        tensors((3, 5, 7), (5, 7, 3), (5, 7)).map(lambda pair: pair[0]),
        arrays.arrays(
            st.sampled_from(["float64", "float32", "uint8", "int64", "bool"]),
            st.sampled_from([(5, 7, 3), (5, 7), (5, 7, 4), (3, 5, 7), (9, 2), (1, 5, 7, 3), ()]),
        ),
        st.builds(PIL.Image.new, st.sampled_from(["RGB", "L", "P", "RGBA", "F"]), st.just((7, 5))),
        junk,
    )

    @for_all(
        cases,
        picture=mostly(unit(5, 7, 3), odd),
        mask=mostly(unit(5, 7), odd),
        other=mostly(unit(5, 7), odd),
        negative=st.booleans(),
    )
    def judge(picture, mask, other, negative):
        def fault(shown) -> str:
            fine = isinstance(shown, np.ndarray) and shown.shape[2:] == (3,) and within(shown, 0, 1)
            return "" if fine else f"it gives {described(shown)}"

        tally.judge(
            described(picture, mask), partial(show_cam_on_image, picture, mask, negative), fault
        )
        tally.judge(
            described(picture, mask, other),
            partial(show_overlapped_cam, picture, mask, other),
            fault,
        )


def within(values: np.ndarray, low: float, high: float) -> bool:
    """NaN is not."""
    return bool((values >= low - 1e-6).all() and (values <= high + 1e-6).all())


def described(*values) -> str:
    """Values in a few words."""
    said = []
    for value in values:
        if isinstance(value, Tensor):
            poison = value.is_floating_point() and not value.isfinite().all()
            said.append(f"{value.dtype} {list(value.shape)}{', not finite' * bool(poison)}")
        elif isinstance(value, np.ndarray):
            poison = value.dtype.kind == "f" and not np.isfinite(value).all()
            said.append(f"{value.dtype} {list(value.shape)}{', not finite' * bool(poison)}")
        else:
            module = isinstance(value, torch.nn.Module)
            said.append(type(value).__name__ if module else repr(value)[:60])
    return "; ".join(said)


def different(found: Tensor, expected: Tensor, tolerance: float) -> str:
    """How far maps are from what they should be, if too far, as a part of the largest value."""
    if found.shape != expected.shape:
        return f"shape {list(found.shape)} instead of {list(expected.shape)}"
    gap = ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-20)).item()
    return "" if gap <= tolerance else f"{gap:.1e} of the largest value away from what is right"
