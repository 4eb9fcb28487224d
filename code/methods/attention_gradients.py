"""Attention, filtered by the gradient of the objective at it."""

from jaxtyping import Float
from torch import Tensor

from recording import Recording

Relevance = Float[Tensor, "image target token"]


def gradcam(recording: Recording) -> Relevance:
    """Chefer et al.'s rule (ICCV 2021, eq. 5) on the last block alone; after Grad-CAM.

    r = mean_h relu(G_L ∘ A_L)[0]

    Their notebook for CLIP starts there unless told otherwise. Grad-CAM itself (Selvaraju et al.,
    ICCV 2017) would weigh each head by its mean gradient.
    """
    return recording.asks @ context(*next(iter(recording)))


def all_grads(recording: Recording) -> Relevance:
    """Chefer et al., ICCV 2021, eqs. 5-6: every block filtered by its own gradient.

    C_l = mean_h relu(G_l ∘ A_l);  R = (I + C_L) ··· (I + C_1);  r = R[0]

    A product of matrices is not free of scale. Here G is the gradient of the cosine; the authors'
    code for CLIP takes that of the logit (see `scale` of `relevance_maps`), and of the last block
    alone unless told otherwise.
    """
    return propagate(recording)


def last_grad(recording: Recording) -> Relevance:
    """As `all_grads`, but every block is filtered by the gradient of the last.

    G_L is zero outside the row of CLS, so C_l = e_0 c_lᵀ, and the product of matrices is

    r = e_0 + c_L + (1 + c_L[0]) c_{L-1} + (1 + c_L[0]) (1 + c_{L-1}[0]) c_{L-2} + ···

    a weighted sum of the CLS rows c_l = mean_h relu(G_L ∘ A_l)[0]: no other query is needed.
    """
    return propagate(recording)


def propagate(recording: Recording) -> Relevance:
    """r ← r + r C_l, last block first: a row through each matrix, never a product of matrices."""
    asks, relevance = recording.asks, recording.start  # CLS is relevant to itself
    for attention, gradient in recording:
        matrix = context(attention, gradient)
        asks = relevance[..., : matrix.shape[-2]] if asks is None else asks
        relevance = relevance + (asks[..., None, :] @ matrix).squeeze(-2)
        asks = None
    return relevance


def context(attention: Tensor, gradient: Tensor) -> Float[Tensor, "image target query token"]:
    """C = mean_h relu(G ∘ A): how much each query draws from each token in the target's favour."""
    return (gradient * attention).relu_().mean(2)
