"""Which cells the attention pool of a ResNet takes the features from, for or against a target."""

from methods.attention_gradients import Relevance
from methods.streams import direct, direct_signed
from recording import Recording


def pool(recording: Recording) -> Relevance:
    """What each cell adds to the features, as `direct` has it of a ViT; ours.

    r_i = mean_h relu(A[h, i] ⟨W_hᵀ g, v_h,i⟩),   g = ∂s/∂f

    A is the attention of the pool's one query, v_h,i the value of cell i, W the pool's last
    projection: the features are f = Σ_h W_h Σ_i A[h, i] v_h,i, exactly a sum over cells (and the
    mean of all, which is a token of the pool too, and left out).
    """
    return direct(recording)


def pool_signed(recording: Recording) -> Relevance:
    """As `pool` for and against the target: not filtered, and summed over heads."""
    return direct_signed(recording)
