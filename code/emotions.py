"""The nine emotions of ArtEmis (Achlioptas et al., CVPR 2021) as targets."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clip_ import tokenize

# What each is called and what evokes it, in the words of everyday captions: these make an ensemble.
EMOTIONS: dict[str, tuple[str, ...]] = {
    "amusement": ("something funny", "a laughing face", "a clown"),
    "awe": ("something amazing", "an amazed face", "a rainbow", "a rocket"),
    "contentment": ("something peaceful", "a happy face", "a sleepy face", "a cup of coffee"),
    "excitement": ("something exciting", "a joyful face", "a wrapped gift", "a party balloon"),
    "anger": ("something infuriating", "an angry face", "a furious face", "an enraged face"),
    "disgust": ("something disgusting", "a disgusted face", "a nauseated face"),
    "fear": ("something frightening", "a scared face", "a skull", "a spooky ghost"),
    "sadness": ("something sad", "a sad face", "a crying face", "a tearful face"),
    "something else": ("a neutral face", "an expressionless face"),
}
TEMPLATES = ("{}", "a picture of {}", "a photo of {}", "a drawing of {}")


@torch.no_grad()
def emotion_features(
    model: nn.Module,
    source: str | Path | Mapping[str, Sequence[str]] | None = None,
    templates: Sequence[str] = TEMPLATES,
) -> dict[str, Float[Tensor, " feature"]]:
    """Unit features of each emotion: the mean of those of its phrases in all templates.

    model: a CLIP.
    source: phrases for each emotion, by default EMOTIONS; or a JSON file of features for each
        emotion, `{"amusement": [0.1, ...], ...}`, made with the same CLIP.

    Raises ValueError if the file holds anything else or was made for another width.
    """
    if isinstance(source, str | Path):
        return read_features(Path(source), model.text_projection.shape[1])
    device = model.text_projection.device
    found = {}
    for emotion, phrases in (source or EMOTIONS).items():
        texts = [template.format(phrase) for phrase in phrases for template in templates]
        features = F.normalize(model.encode_text(tokenize(texts).to(device)).float(), dim=-1)
        found[emotion] = F.normalize(features.mean(0), dim=-1)
    return found


def read_features(path: Path, width: int) -> dict[str, Float[Tensor, " feature"]]:
    try:
        table = {
            name: torch.tensor(values) for name, values in json.loads(path.read_text()).items()
        }
        table = {name: F.normalize(values.float(), dim=-1) for name, values in table.items()}
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path} must be a JSON object of emotions and their features, "
            f'{{"amusement": [0.1, ...], ...}}: {error}'
        ) from error
    wrong = {name: list(values.shape) for name, values in table.items() if values.shape != (width,)}
    if wrong or not table:
        raise ValueError(
            f"{path} must hold {width} features an emotion for this model; got {wrong}"
        )
    return table
