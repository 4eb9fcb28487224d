"""Saliency methods for texts: what was recorded of a text tower, to the relevance of its tokens.

Each is the method for images of that name, with the token that the features are read from (of CLIP
the end of the text) in the place of CLS, e, and under the mask of the tower. A_l, G_l, V, W and g
are as in `methods/`; no relevance of marks and padding is told.
"""

from collections.abc import Callable
from dataclasses import dataclass

from methods import attention_alone, attention_gradients, published, streams
from methods.attention_gradients import Relevance
from recording import Recording
from recording.texts import (
    record_direct,
    record_matrices,
    record_path,
    record_readers,
    record_similarity,
)


@dataclass(frozen=True)
class TextMethod:
    """relevance: of each token, [text, target, token], those of the text behind the others.
    signed: whether it tells what speaks against a target, too.
    of_targets: whether it differs from target to target.
    whole: whether memory grows with pairs of text and target, by whole matrices.
    """

    relevance: Callable[[Recording], Relevance]
    record: Callable[..., Recording]
    signed: bool = False
    of_targets: bool = True
    whole: bool = False


def path(recording: Recording) -> Relevance:
    """r = Σ_l mean_h relu(A_l[h, e, :] ∘ (V_l,h W_l,h g_l)),   g_{l-1} = (I + ∂MLP_l/∂z)ᵀ g_l

    What heads write to the end of the text, carried on along it through the MLPs; ours.
    """
    return streams.path(recording)


def path_signed(recording: Recording) -> Relevance:
    """r = Σ_l Σ_h A_l[h, e, :] ∘ (V_l,h W_l,h g_l)

    As path, for and against the target: not filtered, and summed over heads; ours.
    """
    return streams.direct_signed(recording)


def direct(recording: Recording) -> Relevance:
    """r = Σ_l mean_h relu(A_l[h, e, :] ∘ (V_l,h W_l,h g))

    What heads write, read at once at the end of the stream; ours. The attention part of the
    decomposition of Gandelsman et al., ICLR 2024, who decompose images, filtered by head.
    """
    return streams.direct(recording)


def direct_signed(recording: Recording) -> Relevance:
    """r = Σ_l Σ_h A_l[h, e, :] ∘ (V_l,h W_l,h g)

    As direct, not filtered, and summed over heads; ours, likewise.
    """
    return streams.direct_signed(recording)


def grad_eclip(recording: Recording) -> Relevance:
    """r_i = relu(Σ_l λ_li Σ_c w_lc v_lic),   w_l = ∂s/∂o_l,   λ_li = Φ(cos(q_le, k_li))

    Grad-ECLIP: Zhao et al., ICML 2024, as its authors' notebook is for texts: of the last eight
    blocks, added up before relu. Two things are ours: heads are as the model has them, where that
    code lets each block attend with one; and Φ scales to [0, 1] over the tokens that e sees, not
    over padding.
    """
    pairs = (published.loosened(similar, 0) * grad.sum(2, True) for similar, grad in recording)
    return sum(pairs).relu()[:, :, 0, 0]


def all_grads(recording: Recording) -> Relevance:
    """C_l = mean_h relu(G_l ∘ A_l);  R = (I + C_L) ··· (I + C_1);  r = R[e]

    Chefer et al., ICCV 2021, eqs. 5-6. Their code for CLIP's texts is this, of the logit
    (`scale=model.logit_scale.exp()`) and by default of the last block alone (`start_block=-1`).
    """
    return attention_gradients.all_grads(recording)


def last_grad(recording: Recording) -> Relevance:
    """C_l = mean_h relu(G_L ∘ A_l);  R = (I + C_L) ··· (I + C_1);  r = R[e]

    The original project's method for images; its reading for texts is ours.
    """
    return attention_gradients.last_grad(recording)


def attention(recording: Recording) -> Relevance:
    """r = mean_h A_L[h, e, :], whatever the target: raw attention."""
    return attention_alone.attention(recording)


TEXT_METHODS = {
    "path": TextMethod(path, record_path),
    "path signed": TextMethod(path_signed, record_path, signed=True),
    "direct": TextMethod(direct, record_direct),
    "direct signed": TextMethod(direct_signed, record_direct, signed=True),
    "Grad-ECLIP": TextMethod(grad_eclip, record_similarity, whole=True),
    "all grads": TextMethod(all_grads, record_matrices, whole=True),
    "last grad": TextMethod(last_grad, record_readers),
    "attention": TextMethod(attention, record_readers, of_targets=False),
}
