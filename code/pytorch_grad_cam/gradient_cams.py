"""CAMs that weigh channels by the gradient G of the objective at their activations A."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from checks import is_plain
from model import AttentionPool2d, ModifiedResNet
from objective import LOGIT_SCALE, objective_slopes
from pytorch_grad_cam.base import BaseCAM, Maps, Record, principal_component, require_features

Weights = Float[Tensor, "image target channel #row #column"]


class GradCAM(BaseCAM):
    """Selvaraju et al., ICCV 2017, eqs. 1-2: w_c = mean_ij G_cij.

    The sum of a gradient over cells is the gradient with respect to what is added to all cells.
    CLIP's attention pool knows that as a number a channel, so right below it no gradient at any
    cell is computed, and many targets cost little more than one.
    """

    def explain(self, images: Tensor, directions: Tensor, eigen_smooth: bool) -> list[Maps]:
        model = self.model
        if not self.is_below_the_pool():
            return super().explain(images, directions, eigen_smooth)
        x = model.trunk(images)
        shifts = x.new_zeros(*directions.shape[:2], x.shape[1]).requires_grad_()
        with torch.enable_grad():
            features = model.attnpool(x, shifts)
        require_features(features[:, 0], directions)
        slopes = objective_slopes(features[:, 0].detach(), directions).transpose(0, 1)
        weights = torch.autograd.grad(features, shifts, slopes)[0] / x[0, 0].numel()
        activations = x.unsqueeze(1).to(directions)
        weights = weights.to(directions)[..., None, None]
        return [self.combine(weights, activations, eigen_smooth)]

    def is_below_the_pool(self) -> bool:
        """Whether nothing but CLIP's own attention pool follows the target layer."""
        model = self.model
        return (
            isinstance(model, ModifiedResNet)
            and is_plain(model)
            and isinstance(model.attnpool, AttentionPool2d)
            and isinstance(model.layer4, nn.Sequential)
            and self.target_layers == [model.layer4[-1]]
            and self.reshape_transform is None
        )

    def weights(self, record: Record) -> Weights:
        return record.gradients.mean((-2, -1), keepdim=True)


class GradCAMPlusPlus(BaseCAM):
    """Chattopadhay et al., WACV 2018, eqs. 7 and 19.

    w_c = Σ_ij α_cij relu(G_cij),  α_cij = G² / (2 G² + G³ Σ_ab A_cab)

    Not proportional to G: here the objective is 100 times the cosine, CLIP's logit. Equation 19
    takes the exponential of the score that is differentiated; the score as it is, and the 1e-6,
    follow pytorch-grad-cam. (An exponential would multiply all weights of a target alike.)

    No weight is negative, so a map is a mixture of all activations: nothing that speaks against the
    target is taken away. On RN-emoji 84 of 100 channels are louder beside objects than on them, and
    a mixture is brightest on the background whatever the target. There GradCAM++ points right in
    none of 1,000 scenes; in 64 scenes of two objects neither does the plain sum of the channels,
    nor GradCAM without its negative weights, and its maps of the two objects correlate by 0.98.
    """

    def weights(self, record: Record) -> Weights:
        gradients = LOGIT_SCALE * record.gradients
        square, total = gradients**2, record.activations.sum((-2, -1), keepdim=True)
        alpha = square / (2 * square + square * gradients * total + 1e-6)
        return (alpha * gradients.relu()).sum((-2, -1), keepdim=True)


class XGradCAM(BaseCAM):
    """Fu et al., BMVC 2020, eq. 8: w_c = Σ_ij G_cij A_cij / Σ_ij A_cij."""

    def weights(self, record: Record) -> Weights:
        product = (record.gradients * record.activations).sum((-2, -1), keepdim=True)
        return product / (record.activations.sum((-2, -1), keepdim=True) + 1e-7)


class HiResCAM(BaseCAM):
    """Draelos and Carin, 2020: the gradient itself, w_cij = G_cij."""

    def weights(self, record: Record) -> Weights:
        return record.gradients


class LayerCAM(BaseCAM):
    """Jiang et al., IEEE TIP 2021, eq. 5: w_cij = relu(G_cij)."""

    def weights(self, record: Record) -> Weights:
        return record.gradients.relu()


class EigenGradCAM(BaseCAM):
    """The principal component of G ∘ A (after EigenCAM; Gildenblat, pytorch-grad-cam)."""

    def weights(self, record: Record) -> Weights:
        return record.gradients

    def combine(self, weights: Tensor, activations: Tensor, eigen_smooth: bool) -> Maps:
        return principal_component(weights * activations)


class EigenCAM(BaseCAM):
    """Muhammad and Yeasin, IJCNN 2020: the principal component of A, whatever the target.

    Cells are centred first, as in pytorch-grad-cam. No target tells the sign: as in Seg-Eigen-CAM
    (Chung and Ying, 2025, eq. 13) the largest value is positive.
    """

    uses_gradients = False

    def weights(self, record: Record) -> Weights:
        return record.activations.new_ones(1, 1, 1, 1, 1)

    def combine(self, weights: Tensor, activations: Tensor, eigen_smooth: bool) -> Maps:
        maps = principal_component(activations)
        low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
        return torch.where(high >= -low, maps, -maps)
