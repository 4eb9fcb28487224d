"""PyPI's grad-cam on request (see worker.py): one call explains a batch of images by one target.

`code/` comes last on the path: both packages are imported as `pytorch_grad_cam`, and here the
installed one must win.
"""

import json
import sys
from pathlib import Path

import torch

sys.path += [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1] / "code")]

from worker import serve

import pytorch_grad_cam
from model import CLIP

SMALL = (32, 64, (1, 1, 1, 1), 8)  # to warm up: loads code and starts threads


def build(shape: list) -> torch.nn.Module:
    torch.manual_seed(0)
    return CLIP(*shape, None, 1, 1, 64, 1, 1).visual.eval()


def explain(visual: torch.nn.Module, method: str, batch: int, every: int) -> None:
    target, side = torch.randn(visual.output_dim), visual.input_resolution
    images = torch.randn(batch, 3, side, side)
    cam = getattr(pytorch_grad_cam, method)(visual, [visual.layer4[-1]])
    if method == "AblationCAM":  # of channels in the order of their worth, so many from both ends
        cam.ratio_channels_to_ablate = 0.5 / every
    cam(images, [lambda features: torch.cosine_similarity(features, target, dim=-1)] * batch)
    cam.activations_and_grads.release()


def main(shape: str, threads: str, every: str = "1") -> None:
    """every: AblationCAM runs on one channel in so many."""
    torch.set_num_threads(int(threads))
    explain(build(SMALL), "GradCAM", 1, 1)
    visual = build(json.loads(shape))
    serve(lambda method, batch, _: explain(visual, method, batch, int(every)))


if __name__ == "__main__":
    main(*sys.argv[1:])
