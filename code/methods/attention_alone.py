"""What is attended to, whatever the target."""

from methods.attention_gradients import Relevance
from recording import Recording


def attention(recording: Recording) -> Relevance:
    """Raw attention: what the features are read by attends to, in the last block.

    r = mean_h A_L[h, 0, :]
    """
    matrix, _ = next(iter(recording))
    return recording.asks @ matrix.mean(2)


def rollout(recording: Recording) -> Relevance:
    """Abnar and Zuidema, ACL 2020: attention through all blocks, half of each being its residual.

    R = Â_L ··· Â_1,   Â_l = 0.5 mean_h A_l + 0.5 I,   r = R[0]
    """
    relevance = recording.start
    asks, kept = recording.asks, relevance.sum()  # a pool has no residual: nothing is kept
    for matrix, _ in recording:
        asks = relevance if asks is None else asks
        read = (asks[..., None, :] @ matrix.mean(2)).squeeze(-2)
        relevance, asks, kept = (read + kept * relevance) / (1 + kept), None, 1
    return relevance
