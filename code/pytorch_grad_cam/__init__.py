"""The Grad-CAM family for networks that return an embedding, such as CLIP's image encoder.

    cam = GradCAM(model=clip.visual, target_layers=[clip.visual.layer4[-1]])
    cam(input_tensor=images, target_encoding=features)     # a list, one array [image, target, h, w]

The calling convention is that of pytorch-grad-cam (Gildenblat, 2021) as CLIP Explainability changed
it: what is explained is the cosine of the embedding with `target_encoding`.
"""

from pytorch_grad_cam.ablation_cam import AblationCAM
from pytorch_grad_cam.base import BaseCAM
from pytorch_grad_cam.full_grad import FullGrad
from pytorch_grad_cam.gradient_cams import (
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from pytorch_grad_cam.guided_backprop import GuidedBackpropReLUModel
from pytorch_grad_cam.score_cams import GScoreCAM, ScoreCAM

CAMS: dict[str, type[BaseCAM]] = {
    cam.__name__: cam
    for cam in (
        GradCAM,
        GradCAMPlusPlus,
        XGradCAM,
        HiResCAM,
        LayerCAM,
        EigenCAM,
        EigenGradCAM,
        FullGrad,
        AblationCAM,
        ScoreCAM,
        GScoreCAM,
    )
}

__all__ = ["CAMS", "BaseCAM", "GuidedBackpropReLUModel", *CAMS]
