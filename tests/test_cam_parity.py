"""Every CAM against PyPI's grad-cam, on the same ResNet with the similarity as objective.

Documented differences: the sign of principal components; AblationCAM is not divided by the score
(similarities here are positive, where that only scales); ours are not rescaled, theirs are, before
and after they are enlarged, so ours are here too.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import pytorch_grad_cam
from conftest import noise
from grad_cam_oracle import EIGEN, GRADIENT
from saliency import normalise_maps, relevance_maps, resize_maps
from small_clip import small_resnet

ORACLE = Path(__file__).with_name("grad_cam_oracle.py")
METHODS = (*GRADIENT, *EIGEN, "FullGrad", "AblationCAM", "ScoreCAM")


@pytest.fixture(scope="module")
def case():
    """A ResNet off its initial statistics, images on a 2 x 3 grid, targets they resemble."""
    model = small_resnet(vocab_size=100).double()
    images = noise(2, 3, 64, 96)
    for name, value in model.visual.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            value.normal_(std=0.3)
    with torch.no_grad():
        features = model.encode_image(images).mean(0)
    targets = features + 0.5 * features.norm() / 4 * noise(2, len(features))
    return model, images, targets


@pytest.fixture(scope="module")
def official(case, tmp_path_factory):
    pytest.importorskip("pytorch_grad_cam")
    model, images, targets = case
    folder = tmp_path_factory.mktemp("grad-cam")
    given, found = folder / "case.safetensors", folder / "maps.safetensors"
    save_file(model.state_dict() | {"images": images, "targets": targets}, given)
    paths = os.environ | {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, str(ORACLE), str(given), str(found)]
    done = subprocess.run(command, env=paths, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(found)


def enlarged(maps, images):
    return normalise_maps(resize_maps(normalise_maps(maps), images.shape[-2:]))


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_those_of_grad_cam(method, case, official):
    model, images, targets = case
    ours = enlarged(relevance_maps(model, images, targets, method), images)
    assert ours.amax() == 1
    torch.testing.assert_close(ours.float(), official[method], atol=1e-4, rtol=0)


def test_eigen_smooth_is_that_of_grad_cam(case, official):
    model, images, targets = case
    cam = pytorch_grad_cam.GradCAM(model.visual, [model.visual.layer4[-1]])
    (ours,) = cam(images, targets, eigen_smooth=True)
    ours = enlarged(torch.from_numpy(ours), images)
    torch.testing.assert_close(ours.float(), official["GradCAM_eigen_smooth"], atol=1e-4, rtol=0)


def test_aug_smooth_is_that_of_grad_cam_but_for_the_size_at_which_maps_are_averaged(case, official):
    model, images, targets = case
    cam = pytorch_grad_cam.GradCAM(model.visual, [model.visual.layer4[-1]])
    (ours,) = cam(images, targets, aug_smooth=True)
    ours = resize_maps(torch.from_numpy(ours).float(), images.shape[-2:])
    torch.testing.assert_close(ours, official["GradCAM_aug_smooth"], atol=0.02, rtol=0)
