"""What the configuration beside a checkpoint says, in the words of open_clip or of transformers.

    open_clip_config.json                          open_clip
    config.json, preprocessor_config.json          transformers

A setting that makes another network than ours is refused by its name, and so is one that is not
known: no checkpoint is computed as what it is not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints.errors import AnotherNetwork, CheckpointError
from checkpoints.json_files import Section, read_json
from model import ACTIVATIONS, HEAD_WIDTH
from preprocessing import OPENAI, RESIZE_MODES, Preprocessing

OPEN_CLIPS = "open_clip_config.json"
TRANSFORMERS = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # the latter since version 5


class Claims(NamedTuple):
    """shape: the arguments of `model.CLIP` by name, without heads. None is what is not said."""

    source: str
    shape: dict[str, Any]
    activation: str | None
    heads: tuple[int, int]  # of image and text
    preprocessing: Preprocessing | None

    def require(self, shape: Mapping[str, Any], path: Path) -> None:
        """Raise CheckpointError unless the weights at `path` have the shape that is said."""
        wrong = [
            f"{name} {value!r:.60}, and the weights {shape[name]}"
            for name, value in self.shape.items()
            if shape[name] != value
        ]
        if wrong:
            raise CheckpointError(
                f"{path} is not the model that {self.source} is of, which says {'; '.join(wrong)}: "
                "put the file beside its own configuration, or alone into a folder"
            )


def claims_beside(path: Path, transformers_layout: bool) -> Claims | None:
    """What is said beside the weights at `path`, first by the library whose layout they have."""
    folder, content = path.parent, None
    if (folder / TRANSFORMERS).is_file():
        content = read_json(folder / TRANSFORMERS)
        if not transformers_layout and content.get("model_type") != "clip":
            content = None  # many programs write a file of that name
    if (folder / OPEN_CLIPS).is_file() and (content is None or not transformers_layout):
        return open_clips(read_json(folder / OPEN_CLIPS))
    return None if content is None else transformers(content, folder)


# open_clip

# Settings of towers (open_clip/model.py: CLIPVisionCfg and CLIPTextCfg, version 3.3): those that
# `_open_clip_shape` reads, those of no consequence here, and those that must be as in our network.
READ = {
    *("layers", "width", "head_width", "heads", "mlp_ratio", "patch_size", "image_size"),
    *("context_length", "vocab_size", "act_kwargs"),
}
OF_NO_CONSEQUENCE = {
    # Of training, of what else is returned, of how positions began, and of padding, which a causal
    # tower pooled at the end of a text does not see.
    *("patch_dropout", "output_tokens", "pos_embed_type", "pad_id", "eos_id"),
    # Of what is refused by another name.
    *("attn_pooler_queries", "attn_pooler_heads", "tokenizer_mode"),
    *("timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop"),
    *("timm_drop_path", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
}
OURS = {
    "timm_model_name": (None, ""),
    "hf_model_name": (None, ""),
    "hf_tokenizer_name": (None, ""),
    "tokenizer_kwargs": (None, {}),
    "ls_init_value": (None,),
    "attentional_pool": (None, False, ""),
    "no_ln_pre": (None, False),
    "final_ln_after_pool": (None, False),
    "norm_kwargs": (None, {}, {"eps": 1e-5}),
    "block_type": (None, "default"),
    "qk_norm": (None, False),
    "scaled_cosine_attn": (None, False),
    "scale_heads": (None, False),
    "scale_attn_inner": (None, False),
    "scale_attn": (None, False),
    "scale_fc": (None, False),
    "embed_cls": (None, False),
    "no_causal_mask": (None, False),
    "proj_bias": (None, False),
    "proj_type": (None, "linear"),
}
OURS_OF_BOTH = {  # beside the towers
    "multimodal_cfg": (None,),
    "init_logit_bias": (None,),
}
OF_NO_CONSEQUENCE_OF_BOTH = {
    *("embed_dim", "quick_gelu", "vision_cfg", "text_cfg"),  # which are read
    *("custom_text", "init_logit_scale", "nonscalar_logit_scale", "output_dict"),
}
WORDS = {  # for what a setting's own name does not tell
    "ls_init_value": "layer scale",
    "timm_model_name": "an image tower of timm",
    "hf_model_name": "a text tower of transformers",
    "hf_tokenizer_name": "another tokenizer",
    "tokenizer_kwargs": "another tokenizer",
    "norm_kwargs": "other normalisations",
    "embed_cls": "a class token of texts",
    "multimodal_cfg": "a decoder",
    "init_logit_bias": "a bias of logits",
}
UNSAID = (None, {}, {"approximate": "none"})  # act_kwargs


def open_clips(content: Section) -> Claims:
    """What an `open_clip_config.json` says, or one of open_clip's own configurations."""
    model = content.section("model_cfg") if "model_cfg" in content else content
    vision, text = model.section("vision_cfg"), model.section("text_cfg")
    _require_ours(vision, OURS | {"pool_type": (None, "tok")}, READ | OF_NO_CONSEQUENCE)
    _require_ours(text, OURS | {"pool_type": (None, "argmax")}, READ | OF_NO_CONSEQUENCE)
    _require_ours(model, OURS_OF_BOTH, OF_NO_CONSEQUENCE_OF_BOTH)
    shape, heads = _open_clip_shape(model, vision, text)
    pictures = content.section("preprocess_cfg") if "preprocess_cfg" in content else None
    return Claims(
        content.name,
        shape,
        _open_clip_activation(model, vision, text),
        heads,
        pictures and _open_clip_preprocessing(pictures),
    )


def _open_clip_shape(
    model: Section, vision: Section, text: Section
) -> tuple[dict[str, Any], tuple[int, int]]:
    width, text_width = vision.whole("width", 768), text.whole("width", 512)
    head_width = vision.whole("head_width", HEAD_WIDTH)
    layers = vision.get("layers", 12)
    is_vit = not isinstance(layers, list | tuple)
    layers = vision.whole("layers", 12) if is_vit else tuple(layers)
    shape = {
        "embed_dim": model.whole("embed_dim"),
        "image_resolution": vision.side("image_size", 224),
        "vision_layers": layers,
        "vision_width": width,
        "vision_patch_size": vision.side("patch_size", 16) if is_vit else None,
        "context_length": text.whole("context_length", 77),
        "vocab_size": text.whole("vocab_size", 49408),
        "transformer_width": text_width,
        "transformer_layers": text.whole("layers", 12),
        "vision_mlp_width": int(width * vision.number("mlp_ratio", 4)) if is_vit else None,
        "transformer_mlp_width": int(text_width * text.number("mlp_ratio", 4)),
    }
    return shape, (width * (1 if is_vit else 32) // head_width, text.whole("heads", 8))


def _open_clip_activation(model: Section, vision: Section, text: Section) -> str:
    is_vit = not isinstance(vision.get("layers"), list | tuple)
    towers = [text, vision] if is_vit else [text]
    asked = [tower.get("act_kwargs") for tower in towers]
    if model.get("quick_gelu", False) not in (True, False):
        raise model.wrong("quick_gelu", "true or false")
    if all(one in UNSAID[: 2 if model.get("quick_gelu") else 3] for one in asked):
        return "quickgelu" if model.get("quick_gelu") else "gelu"
    if all(one == {"approximate": "tanh"} for one in asked) and not model.get("quick_gelu"):
        return "gelu_tanh"
    raise AnotherNetwork(
        f"{model.name}: act_kwargs {asked} with quick_gelu {model.get('quick_gelu')}, an "
        f"activation that our network has not ({', '.join(ACTIVATIONS)}, for both towers)"
    )


def _open_clip_preprocessing(pictures: Section) -> Preprocessing:
    interpolations = {name: name for name in ("bicubic", "bilinear")} | {"random": "bicubic"}
    fill = pictures.get("fill_color", 0)
    if type(fill) is not int or not 0 <= fill <= 255:
        raise pictures.wrong("fill_color", "a grey from 0 to 255")
    return Preprocessing(
        mean=pictures.colours("mean", OPENAI.mean),
        std=_deviation(pictures, "std"),
        interpolation=pictures.one_of("interpolation", interpolations, "bicubic"),
        resize_mode=pictures.one_of("resize_mode", {m: m for m in RESIZE_MODES}, "shortest"),
        fill=fill,
    )


def _require_ours(section: Section, ours: Mapping[str, tuple], others: set[str]) -> None:
    for key, value in section.values.items():
        if key in ours and value not in ours[key]:
            what = WORDS.get(key)
            raise AnotherNetwork(
                f"{section.name}: {key} is {value!r:.60}, {f'{what}, ' if what else ''}which our "
                f"network has not"
            )
        if value is not None and key not in ours and key not in others:
            raise AnotherNetwork(
                f"{section.name} has {key!r:.60}, which is not known here, so what it makes of the "
                f"network is not"
            )


# transformers

HIDDEN_ACTIVATIONS = {
    "quick_gelu": "quickgelu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers


def transformers(content: Section, folder: Path) -> Claims:
    """What a `config.json` of a CLIPModel says, with the processor's beside it."""
    if content.get("model_type") != "clip":
        raise AnotherNetwork(
            f"{content.name} is of a model of type {content.get('model_type')!r:.40}, not a CLIP: "
            f"our network is not that"
        )
    vision, text = _tower(content, "vision_config"), _tower(content, "text_config")
    width, text_width = vision.whole("hidden_size", 768), text.whole("hidden_size", 512)
    vocabulary = text.whole("vocab_size", 49408)
    shape = {
        "embed_dim": content.whole("projection_dim", 512),
        "image_resolution": vision.side("image_size", 224),
        "vision_layers": vision.whole("num_hidden_layers", 12),
        "vision_width": width,
        "vision_patch_size": vision.side("patch_size", 32),
        "context_length": text.whole("max_position_embeddings", 77),
        "vocab_size": vocabulary,
        "transformer_width": text_width,
        "transformer_layers": text.whole("num_hidden_layers", 12),
        "vision_mlp_width": vision.whole("intermediate_size", 3072),
        "transformer_mlp_width": text.whole("intermediate_size", 2048),
    }
    # The end of a text is the first of these tokens; but for 2, as configurations once had it by
    # mistake, the token with the largest id (transformers, models/clip/modeling_clip.py).
    end = text.get("eos_token_id", 49407)
    if end not in (2, vocabulary - 1):
        raise AnotherNetwork(
            f"{text.name}: eos_token_id is {end!r:.40}, and our network reads texts at the last id "
            f"of the vocabulary, {vocabulary - 1}"
        )
    for tower in (vision, text):
        if tower.number("layer_norm_eps", 1e-5) != 1e-5:
            raise AnotherNetwork(
                f"{tower.name}: layer_norm_eps is {tower.get('layer_norm_eps')}, which our network "
                f"has not (1e-5)"
            )
    activations = [
        tower.one_of("hidden_act", HIDDEN_ACTIVATIONS, "quick_gelu") for tower in (vision, text)
    ]
    if activations[0] != activations[1]:
        raise AnotherNetwork(
            f"{content.name}: the towers have different activations, {' and '.join(activations)}, "
            f"which our network has not"
        )
    heads = vision.whole("num_attention_heads", 12), text.whole("num_attention_heads", 8)
    pictures = processor(folder)
    return Claims(
        content.name,
        shape,
        activations[0],
        heads,
        pictures and _processing(pictures, shape["image_resolution"]),
    )


def _tower(content: Section, name: str) -> Section:
    """Old configurations have a tower twice; then the one under `..._dict` is whole and counts."""
    return content.section(f"{name}_dict" if f"{name}_dict" in content else name)


def processor(folder: Path) -> Section | None:
    """How pictures are prepared, as a processor of transformers is saved."""
    for name in PROCESSORS:
        if (folder / name).is_file():
            content = read_json(folder / name)
            return content.section("image_processor") if "image_processor" in content else content
    return None


def _processing(pictures: Section, side: int) -> Preprocessing:
    crops = pictures.get("do_center_crop", True)
    size, crop = (_size(pictures, key, side) for key in ("size", "crop_size"))
    shortest = size.get("shortest_edge") == side
    whole = crops and crop.get("height") == crop.get("width") == side
    squash = size.get("height") == size.get("width") == side
    fits = (shortest and whole) or (squash and (whole or not crops))
    rescaled = pictures.get("do_rescale", True) and pictures.get("do_resize", True)
    factor = pictures.number("rescale_factor", 1 / 255)
    if not fits or not rescaled or abs(factor * 255 - 1) > 1e-6 or pictures.get("do_pad"):
        raise CheckpointError(
            f"{pictures.name}: it does not make of every picture a square of the {side} pixels "
            "that the network reads, in [0, 1], by resizing and cropping; correct it, or take it "
            "away and give load mean=, std=, interpolation= and resize_mode="
        )
    normalises = pictures.get("do_normalize", True)
    return Preprocessing(
        mean=pictures.colours("image_mean", OPENAI.mean) if normalises else (0.0, 0.0, 0.0),
        std=_deviation(pictures, "image_std") if normalises else (1.0, 1.0, 1.0),
        interpolation=pictures.one_of("resample", RESAMPLE, 3),
        resize_mode="shortest" if shortest else "squash",
        floor=True,
    )


def _size(pictures: Section, key: str, side: int) -> Mapping[str, Any]:
    """A size, which old processors have as one number."""
    default = {"shortest_edge": side} if key == "size" else {"height": side, "width": side}
    value = pictures.get(key, default)
    if type(value) is int:
        value = dict.fromkeys(default, value)
    return Section(value, f"{pictures.name}: {key}").values


def _deviation(pictures: Section, key: str) -> tuple[float, float, float]:
    found = pictures.colours(key, OPENAI.std)
    if min(found) <= 0:
        raise pictures.wrong(key, "three numbers above 0")
    return found
