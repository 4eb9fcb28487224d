"""How a target's similarity changes as parts of a picture are hidden."""

from methods.attention_gradients import Relevance
from recording.masks import Masked


def occlusion(masked: Masked) -> Relevance:
    """Zeiler and Fergus, ECCV 2014.

    r_i = mean_w (s - s_w)   over the windows w that hide cell i

    s is the similarity of the whole picture, s_w that of one with the window in grey.
    """
    hidden = masked.windows.flatten(1).to(masked.scores)
    return (masked.whole[..., None] - masked.scores) @ (hidden / hidden.sum(0))
