"""A picture, prompts and maps to look at in a notebook, for any model that `relevance_maps` takes.

from widget import explore

explore("ViT-emoji", "Images/horse&sheep.png", ["a horse", "a sheep"])
explore(clip, picture, ["a cat"])                     # of clip_.load
explore(from_open_clip(model, preprocess, tokenizer), picture, ["a cat"], name="mine")

Maps are computed here, in Python; they are drawn as on the page (`page/static/drawing.js`).
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anywidget
import torch
import traitlets
from PIL import Image

from checks import type_name
from clip_ import make_preprocess, to_rgb, tokenize
from explainer import Explainer
from figures import Panel, grid
from image_utils import as_picture, open_image, show_cam_on_image, to_bytes
from methods import is_signed
from model import CLIP
from preprocessing import preprocessing_of
from recording.encoders import Encoder, encoder_of
from saliency import normalise_maps, relevance_maps, resize_maps
from siglip import SigLIP

PAGE = Path(__file__).parent / "page"
MOST = 64  # prompts


def script() -> str:
    """One module for the notebook: what the page draws with, and the widget's own."""
    own = (PAGE / "widget.js").read_text(encoding="utf-8")
    line = 'import { Viewer } from "./drawing.js";\n'
    return (PAGE / "static" / "drawing.js").read_text(encoding="utf-8") + own.replace(line, "")


class Exploration(anywidget.AnyWidget):
    """What `explore` shows. `maps` and `scores` are those on the screen."""

    _esm = script()
    _css = (PAGE / "widget.css").read_text(encoding="utf-8")

    picture = traitlets.Bytes().tag(sync=True)  # as the model sees it, RGBA
    side = traitlets.List(traitlets.Int()).tag(sync=True)  # its width and height
    methods = traitlets.List(traitlets.Unicode()).tag(sync=True)
    method = traitlets.Unicode().tag(sync=True)
    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    scores = traitlets.List(traitlets.Float()).tag(sync=True)
    maps = traitlets.Bytes().tag(sync=True)  # float32 [prompt, row, column]
    grid = traitlets.List(traitlets.Int()).tag(sync=True)
    signed = traitlets.Bool().tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)  # why the last prompts have no maps

    def __init__(self, explainer: Explainer, image: Image.Image, prompts: Sequence[str]):
        self.explainer = explainer
        self.images = explainer.preprocess(to_rgb(image)).unsqueeze(0).to(explainer.device)
        seen = to_bytes(as_picture(self.images[0], explainer.pixels))
        rgba = Image.fromarray(seen).convert("RGBA")
        found = self.explained(prompts, explainer.methods[0])
        super().__init__(
            picture=rgba.tobytes(),
            side=list(rgba.size),
            methods=explainer.methods,
            method=explainer.methods[0],
            prompts=list(prompts),
            **found,
        )
        self.observe(self.answer, ["method", "prompts"])

    def explained(self, prompts: Sequence[str], method: str) -> dict:
        if not prompts or len(prompts) > MOST:
            raise ValueError(f"there must be 1 to {MOST} prompts; got {len(prompts)}")
        targets = self.explainer.texts(prompts)
        maps = relevance_maps(self.explainer.encoder, self.images, targets, method)[0]
        return {
            "scores": self.explainer.scores(self.images, targets)[0].tolist(),
            "maps": maps.float().cpu().contiguous().numpy().tobytes(),
            "grid": list(maps.shape[-2:]),
            "signed": is_signed(method),
            "problem": "",
        }

    def __repr__(self) -> str:
        return f"Exploration({self.explainer.name}, {self.method}, {self.prompts})"

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """With a picture beside it, for where no notebook runs."""
        data, *metadata = super()._repr_mimebundle_(**kwargs)
        return {**data, "image/png": base64.b64encode(self.static()).decode()}, *metadata

    def static(self) -> bytes:
        """A PNG of the picture and the maps."""
        picture = as_picture(self.images[0], self.explainer.pixels)
        values = torch.frombuffer(bytearray(self.maps), dtype=torch.float32)
        maps = resize_maps(values.view(1, -1, *self.grid), picture.shape[:2])
        panels = [
            Panel(show_cam_on_image(picture, heat), f"{prompt} ({score:.1f})")
            for prompt, score, heat in zip(
                self.prompts, self.scores, normalise_maps(maps)[0].numpy(), strict=True
            )
        ]
        file = io.BytesIO()
        grid([[Panel(picture, self.explainer.name), *panels]], side=2.4).savefig(file, dpi=80)
        return file.getvalue()

    def answer(self, change: dict) -> None:
        try:
            found = self.explained(self.prompts, self.method)
        except (ValueError, RuntimeError) as error:
            found = {"problem": str(error), "scores": [], "maps": b""}
        with self.hold_sync():
            for name, value in found.items():
                setattr(self, name, value)


def explore(
    model: str | CLIP | SigLIP | Encoder,
    image: str | Path | Image.Image,
    prompts: Sequence[str] = ("a horse", "a sheep"),
    *,
    name: str = "",
) -> Exploration:
    """A widget for JupyterLab and others: maps of prompts that can be changed there.

    model: a name, as `Explainer` takes it; a model of `clip_.load`; or an `Encoder` with its
        preprocessing and texts (`from_open_clip`, `from_transformers`).
    image: a file or a picture.
    name: what the model is called in the widget.

    Raises TypeError for another model, and what `Explainer`, `open_image` and `relevance_maps`
    raise; later, a prompt that cannot be read is refused in the widget, in a sentence.
    """
    picture = image if isinstance(image, Image.Image) else open_image(image)
    if isinstance(model, str):
        return Exploration(Explainer(model, name), picture, prompts)
    return Exploration(Explainer(whole_encoder(model), name or "model"), picture, prompts)


def whole_encoder(model: CLIP | SigLIP | Encoder) -> Encoder:
    """A model with what prepares its pictures and texts."""
    if isinstance(model, Encoder):
        return model
    if not isinstance(model, CLIP | SigLIP):
        raise TypeError(
            "what is explored is a name, a model of clip_.load, or another with what prepares its "
            "pictures and texts (from_open_clip(model, preprocess, tokenizer), "
            f"from_transformers(model, processor)); got {type_name(model)}"
        )
    visual = model.visual
    return replace(
        encoder_of(model),
        encode_texts=lambda texts: model.encode_text(tokenize(texts)),
        preprocess=make_preprocess(visual.input_resolution, preprocessing_of(visual)),
    )
