"""README's table of models, and the table of all pretrained ones of open_clip, are true."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import every_tag
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from families import FAMILIES, of_timm, stirred, two_pictures
from methods import METHODS, explaining
from recording.encoders import from_module, from_open_clip, from_transformers
from saliency import RESNET_METHODS, relevance_maps

PAGE = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("### The model you already have\n")[2].partition("\n## ")[0]
ROWS = [line.strip("| ").split(" | ") for line in SECTION.splitlines() if line.startswith("| ")][1:]
FAMILY_OF = {
    "open_clip": {
        **{"ViT": "ViT-B-32", "EVA": "EVA02-B-16", "SigLIP": "ViT-B-16-SigLIP"},
        **{"SigLIP 2": "ViT-B-16-SigLIP2", "PE": "PE-Core-B-16", "CoCa": "coca_ViT-B-32"},
        **{"CLIPA": "ViT-L-14-CLIPA", "ViTamin": "ViTamin-S", "MobileCLIP-B": "MobileCLIP-B"},
        **{"ResNet": "RN50", "ConvNeXt": "convnext_base", "MobileCLIP-S": "MobileCLIP-S1"},
    },
    "transformers": {
        **{"CLIP": "CLIPModel", "MetaCLIP 2": "MetaClip2Model", "SigLIP": "SiglipModel"},
        **{"AltCLIP": "AltCLIPModel", "Chinese-CLIP": "ChineseCLIPModel"},
    },
}
WORDS = torch.tensor([[2, 5, 3], [2, 6, 3]])
TOKENS = {
    "open_clip": torch.tensor([[1, 2, 3, 99, 0, 0, 0, 0], [4, 99, 0, 0, 0, 0, 0, 0]]),
    "transformers": {"input_ids": WORDS, "attention_mask": torch.ones_like(WORDS)},
}


# README's table


def of_family(library: str, name: str) -> dict[str, Any]:
    family = FAMILIES[FAMILY_OF[library][name]]
    return {"model": family.model(), "images": family.pictures(), "tokens": TOKENS[library]}


def naflex() -> dict[str, Any]:
    return {
        "model": FAMILIES["Siglip2Model"].model(),
        "processor": transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=16),
        "pictures": [Image.new("RGB", (96, 48)), Image.new("RGB", (32, 96))],
        "targets": torch.randn(2, 64),
    }


def of_timm_with(**options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "model": stirred(of_timm("vit_base_patch16_224", **options)()),
        "images": two_pictures(64, 64),
        "others": two_pictures(64, 64).flip(0),
        "targets": torch.randn(2, 64),
    }


def convolutional() -> dict[str, Any]:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(62), nn.Flatten())
    return {"network": network, "images": two_pictures(64, 64), "targets": torch.randn(2, 8)}


OTHERS = {
    "transformers: SigLIP 2 NaFlex, whose pictures keep their shapes: a list of maps": naflex,
    "timm: a ViT without its classifier, and another picture": of_timm_with,
    "timm: an ImageNet classifier, and a class": partial(of_timm_with, num_classes=1000),
    "any of these, compiled, in parallel or with a LoRA": of_timm_with,
    "any other network that makes features of images": convolutional,
}


def lines() -> Iterator:
    """Each line with a stand-in for each model that it is said to be for."""
    for said, code, methods in ROWS:
        library, _, names = said.partition(": ")
        stand_ins: dict[str, Callable] = {said: OTHERS.get(said)}
        if said not in OTHERS:
            stand_ins = {name: partial(of_family, library, name) for name in names.split(", ")}
        for name, stand_in in stand_ins.items():
            yield pytest.param(code.strip("`"), methods, stand_in, id=name)


@pytest.mark.parametrize(("code", "methods", "stand_in"), [*lines()])
def test_every_line_of_the_page_runs_with_every_method_beside_it(code, methods, stand_in):
    given = stand_in() | {"torch": torch, "from_module": from_module}
    default = eval(code, given | {"relevance_maps": relevance_maps})
    for place, method in enumerate(re.findall("`(.+?)`", methods)):
        found = eval(code, given | {"relevance_maps": partial(relevance_maps, method=method)})
        for maps, as_default in zip(found, default, strict=True):
            assert maps.shape == as_default.shape
            if place == 0:
                torch.testing.assert_close(maps, as_default)
            assert maps.ndim == 3
            assert maps.isfinite().all()


def test_methods_that_need_cls_are_those_that_the_page_names():
    of_cls, of_probe, of_average = (list(explaining(one)) for one in ("CLS", "probe", "average"))
    sentence = re.search(
        r"where a probe is, not (.+?);\s+where an\s+average is, not (.+?) either", PAGE
    )
    named = [re.findall("`(.+?)`", part) for part in sentence.groups()]
    assert set(of_cls) - set(of_probe) == set(named[0])
    assert set(of_probe) - set(of_average) == {*named[1], "direct signed"}
    methods = re.findall(r'^\| `"(.+?)"`', PAGE.partition("\n## Methods\n")[2], re.MULTILINE)
    assert set(methods) == {*METHODS, *RESNET_METHODS} - {"Grad-ECLIP, one head"}


class Words(dict):
    def to(self, _device):
        return self


class Processor:
    """A tokenizer for three texts of one word each, and no pictures."""

    model_max_length = 3

    def __init__(self):
        self.tokenizer = self

    def __call__(self, texts, **options):
        self.options = options
        words = torch.tensor([[2, ord(text), 3] for text in texts])
        return Words(input_ids=words, attention_mask=torch.ones_like(words))


@torch.no_grad()
def test_targets_that_an_encoder_makes_of_texts_are_those_of_the_model():
    model = FAMILIES["ViT-B-32"].model()
    encoder = from_open_clip(model, tokenizer=lambda texts: TOKENS["open_clip"][: len(texts)])
    expected = model.encode_text(TOKENS["open_clip"])
    assert torch.equal(encoder.encode_texts(["a cow", "a sheep"]), expected)
    for name, padding in {"CLIPModel": True, "SiglipModel": "max_length"}.items():
        model, processor = FAMILIES[name].model(), Processor()
        words = torch.tensor([[2, ord("a"), 3], [2, ord("b"), 3]])
        expected = model.get_text_features(words, torch.ones_like(words)).pooler_output
        found = from_transformers(model, processor).encode_texts(["a", "b"])
        assert torch.equal(found, expected)
        assert processor.options["padding"] == padding
        one = from_transformers(model, processor).encode_texts("a")  # not a list of letters
        torch.testing.assert_close(one, found[:1])


# All pretrained models of open_clip


def test_the_page_says_how_many_there_are():
    rows = every_tag.read(every_tag.TABLE)
    of = Counter(row["as it is"] for row in rows)
    ours = sum(row["our network"] == "yes" for row in rows)
    counted = (len(rows), of["CLS"], of["probe"], of["average"], of["CAMs"], ours)
    said = re.search(
        r"All (\d+) pretrained .* (\d+) by CLS, (\d+) by a probe, (\d+) by an average, (\d+) by "
        r"CAMs; (\d+) of them",
        " ".join(SECTION.split()),
    )
    assert tuple(map(int, said.groups())) == counted


def test_the_table_agrees_with_what_is_tested_here():
    found = {row["architecture"]: row["as it is"] for row in every_tag.read(every_tag.TABLE)}
    known = {name: family.pooling or "CAMs" for name, family in FAMILIES.items() if name in found}
    assert len(known) > 10
    assert {name: found[name] for name in known} == known


@pytest.mark.parametrize(
    ("name", "classic"),
    [
        *[("ViT-B-32", True), ("ViT-H-14-quickgelu", True), ("RN50x64", True)],
        *[("ViT-L-14-CLIPA", False), ("coca_ViT-B-32", False), ("convnext_base", False)],
        *[("roberta-ViT-B-32", False), ("ViT-H-14-worldwide", False), ("EVA02-B-16", False)],
    ],
)
def test_our_network_reads_classic_vits_and_resnets_beside_a_classic_text_tower(name, classic):
    assert every_tag.is_classic(name) == classic


def test_the_table_is_made_going_on_where_it_was_stopped(tmp_path, monkeypatch):
    made = []
    pretrained = [("ViT-B-32", "a"), ("ViT-B-16-SigLIP", "a"), ("ViT-B-32", "b")]
    monkeypatch.setattr(open_clip, "list_pretrained", lambda: pretrained)
    monkeypatch.setattr(every_tag, "as_it_is", lambda name: made.append(name) or {"as it is": name})
    table = tmp_path / "families.csv"
    every_tag.write(list(every_tag.rows("ViT-B-32", ["a", "b"])), table)
    every_tag.main(["--output", str(table)])
    assert made == ["ViT-B-32", "ViT-B-16-SigLIP"]
    rows = every_tag.read(table)
    assert [row["our network"] for row in rows] == ["no", "yes", "yes"]
    assert [row["tag"] for row in rows] == ["a", "a", "b"]


def test_a_row_says_what_the_features_are_read_from():
    assert every_tag.as_it_is("MobileCLIP-S1") == {"as it is": "CAMs"}
    assert every_tag.as_it_is("PE-Core-T-16-384") == {"as it is": "probe"}


def test_a_row_says_why_not(monkeypatch):
    model = FAMILIES["ViT-B-32"].model()
    model.visual.transformer.resblocks[0].register_forward_hook(lambda *call: call[-1][:, :-1])
    monkeypatch.setattr(every_tag, "shallow", lambda _: model)
    row = every_tag.as_it_is("ViT-B-32")
    assert row["as it is"] == "refused"
    assert row["why not"].startswith("block 1 of this model attends to 16 tokens of 1 images, not")
