"""Means with their uncertainty."""

import numpy as np
from jaxtyping import Float


def interval(values: Float[np.ndarray, " sample"], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, the same at every call."""
    values = np.asarray(values, dtype=float)
    picks = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)
