"""Checkpoints that other packages fetch, into their own caches; those are imported only then.

    open_clip:ViT-B-32/laion2b_s34b_b79k    a model and a tag of open_clip.list_pretrained()
    hf:openai/clip-vit-base-patch32         a repository of the Hugging Face hub

What they fetch is read as any other file.
"""

import importlib
from pathlib import Path
from types import ModuleType

from checkpoints.claims import OPEN_CLIPS, PROCESSORS, TRANSFORMERS, Claims, open_clips
from checkpoints.errors import CheckpointError
from checkpoints.formats import INDEX, is_index, shard_names
from checkpoints.json_files import Section
from checkpoints.tensor_pickles import reason

OPEN_CLIP, HUB = "open_clip:", "hf:"
# What a repository holds, a configuration and one of these files of weights; the best first.
KINDS = {
    OPEN_CLIPS: ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    TRANSFORMERS: ("model.safetensors", f"model{INDEX}", "pytorch_model.bin"),
}


def fetch(name: str) -> tuple[Path, Claims | None]:
    """The weights that `name` stands for, and what is known of them beside what lies there."""
    if name.startswith(OPEN_CLIP):
        return from_open_clip(name)
    return from_hub(name), None


def from_open_clip(name: str) -> tuple[Path, Claims]:
    """The file that open_clip has for a model and a tag, and the configuration of the two.

    The activation is the tag's: open_clip computes some models with another, and warns.
    """
    open_clip = package("open_clip", "open_clip_torch", name)
    model, _, tag = name.removeprefix(OPEN_CLIP).rpartition("/")
    model = model.replace("/", "-")  # as open_clip does
    trained = open_clip.get_pretrained_cfg(model, tag)
    if not trained:
        tags = open_clip.list_pretrained_tags_by_model(model)
        known = ", ".join(tags) or "none; open_clip.list_pretrained() lists all models and tags"
        raise CheckpointError(f"{name}: open_clip knows no such model and tag; of {model}: {known}")
    content = open_clip.get_model_config(model) | {"quick_gelu": trained.get("quick_gelu", False)}
    claims = open_clips(Section({"model_cfg": content, "preprocess_cfg": trained}, name))
    try:
        return Path(open_clip.download_pretrained(trained)), claims
    except Exception as error:  # of the network, the disk, the package
        raise unreachable(name, error) from error


def from_hub(name: str) -> Path:
    """The weights of a repository, beside which its configuration then lies."""
    hub = package("huggingface_hub", "huggingface_hub", name)
    repository = name.removeprefix(HUB)
    out_of_reach = []

    def get(file: str, certain: bool = False) -> Path | None:
        """A file, or None if there is none; `certain`: not if that cannot be told."""
        try:
            return Path(hub.hf_hub_download(repository, file))
        except hub.errors.LocalEntryNotFoundError as error:  # not in the cache, and no network
            absent = hub.try_to_load_from_cache(repository, file) is hub._CACHED_NO_EXIST
            if certain and not absent:
                raise unreachable(f"{file} of {name}", error) from error
            out_of_reach.append(error)
        except hub.errors.EntryNotFoundError:
            pass
        except Exception as error:  # of the name, the network, the disk
            raise unreachable(name, error) from error
        return None

    for configuration, kinds in KINDS.items():
        if not get(configuration):
            continue
        for weights in filter(None, map(get, kinds)):
            for shard in shard_names(weights) if is_index(weights) else ():
                get(shard, certain=True)
            if configuration == TRANSFORMERS:
                any(get(processor, certain=True) for processor in PROCESSORS)
            return weights
    if out_of_reach:
        raise unreachable(name, out_of_reach[0]) from out_of_reach[0]
    raise CheckpointError(
        f"{name} holds no CLIP that can be read, which is "
        + ", or ".join(f"{c} with {' or '.join(kinds)}" for c, kinds in KINDS.items())
    )


def package(module: str, distribution: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CheckpointError(
            f"{name} is fetched by {module}, which cannot be imported ({reason(error)}): "
            f"pip install {distribution}"
        ) from error


def unreachable(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{name} could not be fetched: {reason(error)}\nIts files are neither in the cache nor to "
        "be had over the network; fetch them once where there is one, or give the path of a file"
    )
