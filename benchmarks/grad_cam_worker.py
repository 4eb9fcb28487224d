"""PyPI's grad-cam on request: for each line "METHOD IMAGES" on stdin, one call for one target.

`code/` comes last on the path: both packages are imported as `pytorch_grad_cam`, and here the
installed one must win.
"""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "code"))

import pytorch_grad_cam
from model import CLIP


def cosine_with(target: torch.Tensor):
    return lambda features: torch.nn.functional.cosine_similarity(features, target, dim=-1)


def main(shape: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    visual = CLIP(*json.loads(shape), None, 1, 1, 64, 1, 1).visual.eval()
    target = cosine_with(torch.randn(visual.output_dim))
    print("ready", flush=True)
    for line in sys.stdin:
        method, batch = line.split()
        images = torch.randn(int(batch), 3, 224, 224)
        with redirect_stdout(sys.stderr):  # where a line is an answer
            cam = getattr(pytorch_grad_cam, method)(visual, [visual.layer4[-1]])
            cam(images, [target] * len(images))
            cam.activations_and_grads.release()
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
