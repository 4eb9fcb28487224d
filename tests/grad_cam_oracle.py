"""Maps by PyPI's grad-cam, to compare with ours: `python grad_cam_oracle.py CASE.safetensors OUT`.

A process of its own, because both packages are imported as `pytorch_grad_cam`: here `code/` comes
last on the path, so that the installed one wins.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).resolve().parent.parent / "code"))

import pytorch_grad_cam
from model import build_model

GRADIENT = ("GradCAM", "GradCAMPlusPlus", "XGradCAM", "HiResCAM", "LayerCAM")
EIGEN = ("EigenCAM", "EigenGradCAM")
METHODS = (*GRADIENT, *EIGEN, "FullGrad", "AblationCAM", "ScoreCAM")


class Similarity:
    """100 times the cosine, as an objective of grad-cam's.

    FullGrad adds 1e-7 to ranges before it divides by them: a greater scale makes that nothing.
    """

    def __init__(self, target: torch.Tensor, method: str):
        self.target = target
        self.scale = 1e8 if method == "FullGrad" else 100

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.nn.functional.cosine_similarity(features, self.target, dim=-1)


def with_our_sign(cam):
    """Principal components with our choice of their sign, which is arbitrary."""
    component = cam.get_cam_image

    def signed(images, layer, targets, activations, grads, eigen_smooth):
        call = (images, layer, targets, activations, grads)
        maps = component(*call, eigen_smooth)
        if type(cam).__name__ == "EigenCAM":
            return np.stack([m * np.sign(m.flat[np.abs(m).argmax()]) for m in maps])
        plain = component(*call, False) if eigen_smooth else (activations * grads).sum(1)
        plain = plain - plain.mean((1, 2), keepdims=True)
        return maps * np.sign((maps * plain).sum((1, 2), keepdims=True))

    cam.get_cam_image = signed
    return cam


def main(case: str, output: str) -> None:
    case = load_file(case)
    images, targets = case.pop("images"), case.pop("targets")
    model = build_model(case).double().visual
    assert Path(pytorch_grad_cam.__file__).parent.parent.name == "site-packages"
    found = {}
    for name, options in [(name, {}) for name in METHODS] + [
        ("GradCAM", {"eigen_smooth": True}),
        ("GradCAM", {"aug_smooth": True}),
    ]:
        cam = getattr(pytorch_grad_cam, name)(model, [model.layer4[-1]])
        if name in EIGEN or "eigen_smooth" in options:
            cam = with_our_sign(cam)
        maps = [
            cam(images.clone(), [Similarity(target, name)] * len(images), **options)
            for target in targets
        ]
        found["_".join([name, *options])] = torch.from_numpy(np.stack(maps, 1))
    save_file(found, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
