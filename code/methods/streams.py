"""What the heads of every block write to CLS in a target's favour."""

from methods.attention_gradients import Relevance, context
from recording import Recording


def direct(recording: Recording) -> Relevance:
    """Every block by what its heads write to the end of the stream; ours.

    r = Σ_l mean_h relu(A_l[h, 0, :] ∘ (V_l,h W_l,h g)),   g = ∂s/∂z_L

    z_L is CLS after the last block, V the values and W the output projection of a head. Without the
    filter it is the attention part of the decomposition of Gandelsman et al., ICLR 2024, by block,
    head and token, read by g. Where something follows the projection (a scale, a normalisation), W
    is the Jacobian of both.
    """
    return sum(recording.asks @ context(*pair) for pair in recording)


def direct_signed(recording: Recording) -> Relevance:
    """As `direct` for and against the target: not filtered, and summed over heads.

    r = Σ_l Σ_h A_l[h, 0, :] ∘ (V_l,h W_l,h g)
    """
    return sum(recording.asks @ (gradient * attention).sum(2) for attention, gradient in recording)


def path(recording: Recording) -> Relevance:
    """As `direct`, but what heads write goes on along CLS, through the MLPs of its blocks; ours.

    r = Σ_l mean_h relu(A_l[h, 0, :] ∘ (V_l,h W_l,h g_l)),   g_L = J_Lᵀ g,   g_{l-1} = J_{l-1}ᵀ g_l

    J_l = I + ∂MLP_l/∂z is all that block l does to CLS behind its attention. No gradient goes
    through any attention: what CLS reads from a token is taken as given.
    """
    return direct(recording)
