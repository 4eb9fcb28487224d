"""What tests share: figures that need no screen, and one small random CLIP."""

import copy
import os

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from model import CLIP, VisionTransformer
from small_clip import small_vit

matplotlib.use("Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: each has one
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # and those that it starts


@pytest.fixture(autouse=True)
def no_figure_is_left():
    """What a test draws on the current axes is not on those of another."""
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def clip() -> CLIP:
    """A ViT with 4 blocks of 2 heads on a 4 x 4 grid of 8-pixel patches; float64. Only read it."""
    return small_vit().double()


@pytest.fixture
def visual(clip) -> VisionTransformer:
    """Its image encoder, as a copy for this test alone."""
    return copy.deepcopy(clip.visual)


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Two images of the native size."""
    return noise(2, 3, 32, 32)


@pytest.fixture(scope="session")
def targets() -> Tensor:
    """Three targets of various lengths."""
    return noise(3, 16) * torch.tensor([[0.1], [1], [30]])


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
