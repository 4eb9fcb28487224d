"""Methods of others for CLIP, as their papers define them."""

import torch
from jaxtyping import Float
from torch import Tensor

from methods.attention_gradients import Relevance
from objective import target_directions, unit_scores
from recording import Recording
from recording.others import Dense


def grad_eclip(recording: Recording) -> Relevance:
    """Grad-ECLIP: Zhao et al., ICML 2024.

    r_i = relu(λ_i Σ_c w_c v_ic),   w = ∂s/∂o,   λ_i = Φ(cos(q, k_i))

    o is what the last block's heads answer CLS, before the output projection, q the query of CLS, k
    keys and v values, all heads side by side; Φ scales to [0, 1] over the patches. The authors'
    codes let the last block attend with one head, whatever the model has; their evaluation script
    compares q and k behind the output projection ("Grad-ECLIP, one head"), their notebooks before.
    """
    similar, gradient = next(iter(recording))
    return (loosened(similar, recording.prefix) * gradient.sum(2, True)).relu()[:, :, 0, 0]


def loosened(similar: Tensor, first: int) -> Tensor:
    """Φ: similarities on the scale of those to the tokens from the first on."""
    scaled = similar[..., first:]
    low, high = scaled.amin(-1, True), scaled.amax(-1, True)
    return (similar - low) / (high - low).clamp_min(1e-12)


def legrad(recording: Recording) -> Relevance:
    """LeGrad: Bousselham et al., ICCV 2025.

    r = mean_l mean_h mean_q relu(∂s_l/∂A_l[h, q, :])

    s_l is the similarity of the features that the last normalisation and projection make of the
    mean of all tokens after block l. The authors' code takes the last two blocks unless told
    otherwise (here `start_block=-2`).
    """
    return torch.stack([gradient.relu().mean((2, 3)) for _, gradient in recording]).mean(0)


def maskclip(dense: Dense) -> Relevance:
    """MaskCLIP: Zhou et al., ECCV 2022 (there it is what labels are taken from).

    r_i = cos(f_i, t)

    f_i are the features of token i where the last block answers each token with its own value; the
    residual connection and the MLP are kept, as in the authors' code for ViTs. Of a ResNet, the
    projected value of a cell, with its position, which their code leaves out.
    """
    return similarities(dense)


def sclip(dense: Dense) -> Relevance:
    """SCLIP: Wang et al., ECCV 2024 (there, too, labels are taken from it).

    r_i = cos(f_i, t)

    As `maskclip`, but the last block answers with softmax(Q Qᵀ / √d) V + softmax(K Kᵀ / √d) V.
    """
    return similarities(dense)


def surgery(dense: Dense) -> Relevance:
    """CLIP Surgery: Li et al., 2023, its architecture.

    r_i = cos(f_i, t),   f from z = x_d + Σ_{l >= d} Attention_l(V_l, V_l, V_l) W_l

    The last six blocks, or those from `start_block` on, let values attend to each other, and what
    that writes is added up beside the stream, without MLPs; what they read is the stream as it is.
    Of a ResNet, values attend to each other in the pool, as the authors' code runs.
    What a set of texts has in common is taken away by the directions of `feature_surgery`, or more
    simply by `against=` of `relevance_maps`.
    """
    return similarities(dense)


def feature_surgery(
    features: Float[Tensor, "image feature"], targets: Float[Tensor, "target feature"]
) -> Float[Tensor, "image target feature"]:
    """CLIP Surgery's feature surgery: the directions, for `direction_maps`, of a set of texts.

    d_k = w_k t_k - mean_k'(w_k' t_k'),   w = p / mean(p),   p = softmax_k(2 cos(f, t_k))

    f are the features of the image, t those of all texts: what they have in common is taken away,
    weighted by what the picture shows.
    """
    features, targets = target_directions(features), target_directions(targets)
    odds = (2 * features @ targets.T).softmax(-1)
    weighted = (odds / odds.mean(-1, keepdim=True))[..., None] * targets
    return weighted - weighted.mean(1, keepdim=True)


def similarities(dense: Dense) -> Float[Tensor, "image target token"]:
    return unit_scores(dense.features, dense.directions)
