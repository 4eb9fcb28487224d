"""How a target's similarity changes as parts of a picture are hidden."""

from methods.attention_gradients import Relevance
from recording.masks import RISE_KEPT, Masked


def occlusion(masked: Masked) -> Relevance:
    """Zeiler and Fergus, ECCV 2014.

    r_i = mean_w (s - s_w)   over the windows w that hide cell i

    s is the similarity of the whole picture, s_w that of one with the window in grey.
    """
    hidden = 1 - masked.kept.flatten(1)
    return (masked.whole[..., None] - masked.scores) @ (hidden / hidden.sum(0))


def rise(masked: Masked) -> Relevance:
    """RISE: Petsiuk et al., BMVC 2018, eq. 6.

    r = 1 / (N E[M]) Σ_n s_n M_n   over N random masks M_n, s_n the similarity of what M_n leaves

    There s_n is a class's probability.
    """
    kept = masked.kept.flatten(1)
    return masked.scores @ kept / (len(kept) * RISE_KEPT)
