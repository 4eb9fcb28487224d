"""The nine emotions of ArtEmis (Achlioptas et al., CVPR 2021) as targets."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from checks import require_finite
from clip_ import tokenize
from recording.encoders import Encoder
from words import text_encoder

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
    model: nn.Module | Encoder,
    source: str | Path | Mapping[str, Sequence[str]] | None = None,
    templates: Sequence[str] = TEMPLATES,
    *,
    name: str | None = None,
) -> dict[str, Float[Tensor, " feature"]]:
    """Unit features of each emotion: the mean of those of its phrases in all templates.

    model: a CLIP, or an `Encoder` of texts.
    source: phrases for each emotion, by default EMOTIONS; or a JSON file of features for each
        emotion, `{"amusement": [0.1, ...], ...}`, made with the same CLIP. It may say with which:
        `"model": "ViT-B-32"`.
    name: of the model.

    Raises ValueError if the file holds anything else, features that are all zero, NaN or infinite,
    or if it was made for another width or for a model of another name.
    """
    encode, weight = text_encoder(model, tokenize)
    if isinstance(source, str | Path):
        found = read_features(Path(source), encode(["a face"]).shape[1], name)
        return {emotion: features.to(weight.device) for emotion, features in found.items()}
    found = {}
    for emotion, phrases in (source or EMOTIONS).items():
        texts = [template.format(phrase) for phrase in phrases for template in templates]
        features = F.normalize(encode(texts).float(), dim=-1)
        found[emotion] = F.normalize(features.mean(0), dim=-1)
    return found


def features_of_each(
    models: Mapping[str, nn.Module | Encoder], folder: str | Path | None = None
) -> dict[str, dict[str, Float[Tensor, " feature"]]]:
    """The features of ArtEmis' nine emotions, in its order, for each of several CLIPs by name.

    folder: of JSON files as `emotion_features` reads them, one a model and named by it:
        `ViT-B-32.json`, `RN101.json`. Features of one CLIP mean nothing to another, even where both
        have the same width. By default they are made of EMOTIONS.

    Raises FileNotFoundError if a model has no file, and ValueError as `emotion_features`, if other
    emotions are in a file, and if two models have the same features.
    """
    if folder is None:
        return {name: emotion_features(model) for name, model in models.items()}
    found: dict[str, dict[str, Tensor]] = {}
    for name, model in models.items():
        path = Path(folder) / f"{name}.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path} with the features of the emotions for {name}: each model needs "
                "one of its own, named by it"
            )
        features = emotion_features(model, path, name=name)
        if set(features) != set(EMOTIONS):
            raise ValueError(
                f"{path} must hold the emotions {', '.join(EMOTIONS)}; got {', '.join(features)}"
            )
        features = {emotion: features[emotion] for emotion in EMOTIONS}
        for other, theirs in found.items():
            if all(values.equal(theirs[emotion]) for emotion, values in features.items()):
                raise ValueError(
                    f"{path} holds the features of {other}: those of one model mean nothing to "
                    "another"
                )
        found[name] = features
    return found


def read_features(
    path: Path, width: int, model: str | None = None
) -> dict[str, Float[Tensor, " feature"]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        made_for = content.pop("model", model)
        table = {
            name: torch.tensor(values, dtype=torch.float64) for name, values in content.items()
        }
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path} must be a JSON object of emotions and their features, "
            f'{{"amusement": [0.1, ...], ...}}: {error}'
        ) from error
    if model and str(made_for).replace("/", "-") != model:
        raise ValueError(f"{path} holds features for the model {made_for!r}, not for {model}")
    wrong = {name: list(values.shape) for name, values in table.items() if values.shape != (width,)}
    if wrong or not table:
        raise ValueError(
            f"{path} must hold {width} features an emotion for this model; got {wrong}"
        )
    for name, values in table.items():
        require_finite(values, f"features of {name!r} in {path}")
        if not values.any():
            raise ValueError(f"features of {name!r} in {path} are all zero")
    # Of any length: the square of a tiny or a huge one would be 0 or infinite.
    table = {name: values / values.abs().max() for name, values in table.items()}
    return {name: F.normalize(values, dim=-1).float() for name, values in table.items()}
