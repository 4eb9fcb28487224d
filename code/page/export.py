"""Write a CLIP of ours, with its explanations, as two ONNX graphs.

python -m page.export ViT-emoji FOLDER     writes FOLDER/image.onnx and FOLDER/text.onnx

image.onnx   images [image, 3, H, W] as the model's preprocessing makes them, and directions
             [target, feature] -> scores, features, and a map by each method, named after it
text.onnx    tokens [text, token] as `clip_.tokenize` makes them, and directions -> features, and
             the relevance of each token by each method

`closed_forms.py` says what they are. Numbers of images, texts, targets and tokens are free; H and W
are the model's own. Weights are stored in half precision, and all arithmetic is in float32: what
comes out is what the model says whose weights are rounded so (those of the embedded models are).
"""

import argparse
import warnings
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.export import Dim

from checkpoints.errors import CheckpointError
from checks import is_plain, type_name
from clip_ import load
from files import whole_file
from model import CLIP, ModifiedResNet, VisionTransformer
from page.closed_forms import Forms, ResNetForms, TextForms, ViTForms

OPSET = 18
MOST = 4096  # images, texts or targets at once
# Sizes of the examples that are traced, which are those of nothing else in a network.
EXAMPLE_TARGETS, EXAMPLE_TOKENS = 5, 11
LARGEST = 65504  # number in half precision: weights with a larger one stay float32
SMALL = 1024  # weights of fewer numbers stay float32: normalisations lose more than they save


def export(model: CLIP, folder: str | Path) -> None:
    """Write `image.onnx` and `text.onnx` into a folder, which is made if there is none.

    model: as `clip_.load` returns it, on the CPU in float32. It is only read.

    Raises TypeError for another model, and ValueError for one that is elsewhere, in another
    precision, or that something was done to: a graph holds what the classes here say.
    """
    export_image(model, folder)
    export_text(model, folder)


def export_image(model: CLIP, folder: str | Path) -> None:
    require_exportable(model)
    visual = model.visual
    images = torch.zeros(2, 3, *[visual.input_resolution] * 2)
    sizes = {0: Dim("image", max=MOST)}
    write(
        forms_of(visual)(visual),
        "images",
        images,
        sizes,
        visual.output_dim,
        Path(folder) / "image.onnx",
    )


def export_text(model: CLIP, folder: str | Path) -> None:
    require_exportable(model)
    tokens = torch.full((2, EXAMPLE_TOKENS), model.vocab_size - 1)
    sizes = {0: Dim("text", max=MOST), 1: Dim("token", max=model.context_length)}
    width = model.text_projection.shape[1]
    write(TextForms(model), "tokens", tokens, sizes, width, Path(folder) / "text.onnx")


def forms_of(visual: VisionTransformer | ModifiedResNet) -> type[Forms]:
    return ViTForms if isinstance(visual, VisionTransformer) else ResNetForms


def require_exportable(model: nn.Module) -> None:
    if not isinstance(model, CLIP):
        raise TypeError(f"what is exported is a CLIP of clip_.load; got {type_name(model)}")
    if not is_plain(model):
        raise ValueError(
            "something was done to this model (a hook, an adapter, another class), which the "
            "exported graph would be without: export the model as it was loaded"
        )
    weight = model.visual.conv1.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise ValueError(
            f"a model is exported from float32 on the CPU; this one is {weight.dtype} on "
            f"{weight.device}: model.float().cpu() is right"
        )


@torch.no_grad()
def write(
    forms: Forms, given: str, example: Tensor, sizes: dict[int, Dim], width: int, path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            forms.eval(),
            (example, torch.eye(EXAMPLE_TARGETS, width)),
            dynamo=True,
            opset_version=OPSET,
            input_names=[given, "directions"],
            output_names=["scores", "features", *forms.methods],
            dynamic_shapes=(sizes, {0: Dim("target", max=MOST)}),
            optimize=False,  # which folds normalisations into weights of more digits
            verbose=False,
        )
    model = program.model_proto
    halve(model.graph)
    forget_origins(model.graph)
    with whole_file(path) as unfinished:
        onnx.save(model, unfinished)


def halve(graph: onnx.GraphProto) -> None:
    """Store large weights in half precision, each cast to float32 before it is used."""
    casts = []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        is_float = weight.data_type == TensorProto.FLOAT
        if not is_float or values.size < SMALL or abs(values).max() > LARGEST:
            continue
        name = f"{weight.name} in half precision"
        casts.append(helper.make_node("Cast", [name], [weight.name], to=TensorProto.FLOAT))
        weight.CopyFrom(numpy_helper.from_array(values.astype("float16"), name))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def forget_origins(graph: onnx.GraphProto) -> None:
    """Leave out what the exporter notes of every node: lines of code, names of modules, shapes."""
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for one in (*graph.initializer, *graph.input, *graph.output):
        one.ClearField("metadata_props")
    graph.ClearField("metadata_props")
    graph.ClearField("value_info")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a CLIP with its explanations as ONNX")
    parser.add_argument("model", help="whatever clip_.load takes")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    try:
        export(load(args.model, "cpu")[0], args.folder)
    except (CheckpointError, OSError, TypeError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
