"""LeGrad (Bousselham et al., ICCV 2025; PyPI's legrad-torch) on request (see worker.py).

It takes one image and any number of prompts. It needs an open_clip of 2023, so `make bench` puts
both into a folder of their own in the virtual environment.
"""

import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

FOLDER = Path(sys.prefix) / "legrad"
sys.path.insert(0, str(FOLDER))
sys.path.append(str(Path(__file__).parent))
warnings.simplefilter("ignore")

import open_clip  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from legrad import LeWrapper  # noqa: E402
from worker import serve  # noqa: E402


def build(model: str) -> LeWrapper:
    torch.manual_seed(0)
    with redirect_stdout(sys.stderr):  # where a line is an answer
        return LeWrapper(open_clip.create_model(model.replace("/", "-")).eval())


def explain(model: LeWrapper, targets: int) -> None:
    prompts = F.normalize(torch.randn(targets, model.visual.output_dim), dim=-1)
    model.compute_legrad(prompts, torch.randn(1, 3, 224, 224))


def main(model: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    wrapped = build(model)
    # Starts threads and loads the code of autograd, which are nobody's working memory.
    torch.randn(256, 256, requires_grad=True).matmul(torch.randn(256, 256)).sum().backward()
    serve(lambda method, images, targets: explain(wrapped, targets))


if __name__ == "__main__":
    main(*sys.argv[1:])
