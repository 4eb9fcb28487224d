"""Does the prompt matter? A map looks no different where it does not.

Two questions: do the maps of a picture differ from prompt to prompt, and is a prompt more similar
to the picture than prompts that have nothing to do with it?
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from checks import require_finite, require_tensor

# Chosen on emoji scenes, with 20 unrelated prompts, and judged on others:
# `python -m evaluation.map_use`.
SAME = 0.88
PRESENT = 0.98


class PromptCheck(NamedTuple):
    """correlation: of the maps of two prompts, the mean over all pairs (Pearson's, over cells).
    presence: of each prompt, the share of the unrelated prompts to which the picture is less
        similar; None without them. Chance is 0.5.
    warnings: a sentence for each picture whose maps hardly depend on the prompt, and for each
        prompt that the picture does not seem to show.
    """

    correlation: Float[Tensor, " image"]
    presence: Float[Tensor, "image target"] | None
    warnings: list[str]


def prompt_check(
    maps: Float[Tensor, "image target row column"],
    scores: Float[Tensor, "image target"] | None = None,
    unrelated: Float[Tensor, "image other"] | None = None,
    *,
    same: float = SAME,
    present: float = PRESENT,
) -> PromptCheck:
    """Whether maps depend on the prompt, and whether the picture shows what the prompt says.

    maps: raw, of two prompts or more that ask for different things. A map that is flat says the
        same for every prompt: with another flat one it correlates with 1, with any other with 0.
    scores, unrelated: cosines, or 100 times that, of each picture with these prompts and with some
        that have nothing to do with it: 20 are a good number.
    same: the mean correlation from which on maps hardly depend on the prompt.
    present: the presence below which a prompt does not seem to be shown.

    Raises TypeError or ValueError for other shapes, fewer than two prompts, NaN and infinity.
    """
    require_tensor(maps, "maps must be a tensor [image, target, row, column]")
    if maps.ndim != 4 or maps.shape[1] < 2:
        raise ValueError(
            "maps must be [image, target, row, column] of two targets or more, to be compared; "
            f"got {list(maps.shape)}"
        )
    require_finite(maps, "maps")
    correlation = mean_correlation(maps)
    warnings = [
        f"picture {number}: its maps hardly depend on the prompt (correlation {value:.3f}), so "
        "they show where the method looks, not where the prompt is"
        for number, value in enumerate(correlation.tolist())
        if value >= same
    ]
    if (scores is None) != (unrelated is None):
        raise ValueError("scores and unrelated must be given both, or neither")
    if scores is None:
        return PromptCheck(correlation, None, warnings)
    for name, given in {"scores": scores, "unrelated": unrelated}.items():
        require_tensor(given, f"{name} must be a tensor [image, prompt]")
        require_finite(given, name)
    if scores.shape != maps.shape[:2]:
        raise ValueError(
            f"scores must be {list(maps.shape[:2])}, one for each map; got {list(scores.shape)}"
        )
    presence = shares_below(scores, unrelated)
    warnings += [
        f"picture {image}, prompt {target}: {presence[image, target]:.0%} of the unrelated prompts "
        "are less similar to the picture, so it does not seem to show what the prompt says"
        for image, target in (presence < present).nonzero().tolist()
    ]
    return PromptCheck(correlation, presence, warnings)


def mean_correlation(maps: Float[Tensor, "image target row column"]) -> Float[Tensor, " image"]:
    """Pearson's correlation of the maps of two targets, the mean over all pairs of targets."""
    cells = maps.detach().flatten(2).double()
    scale = cells.abs().amax(-1, keepdim=True)
    cells = cells / scale.clamp(min=torch.finfo(torch.float64).tiny)
    centred = cells - cells.mean(-1, keepdim=True)
    length = centred.norm(dim=-1, keepdim=True)
    flat = length <= 1e-9 * cells.shape[-1] ** 0.5  # rounding alone
    directions = torch.where(flat, 0, centred / length.clamp(min=1e-300))
    together = directions @ directions.mT
    both_flat = (flat & flat.mT).double()
    first, second = torch.triu_indices(maps.shape[1], maps.shape[1], 1)
    return (together + both_flat)[:, first, second].mean(-1).float()


def shares_below(
    scores: Float[Tensor, "image target"], unrelated: Float[Tensor, "image other"]
) -> Float[Tensor, "image target"]:
    """The share of a picture's unrelated scores that is below each of its scores, ties half."""
    if unrelated.ndim != 2 or len(unrelated) != len(scores) or not unrelated.shape[1]:
        raise ValueError(
            f"unrelated must be [{len(scores)}, other], of one prompt at least; "
            f"got {list(unrelated.shape)}"
        )
    one, other = scores.double()[:, :, None], unrelated.to(scores.device).double()[:, None]
    return ((other < one).double() + 0.5 * (other == one).double()).mean(-1).float()
