"""Means with their uncertainty."""

import numpy as np
from jaxtyping import Float

from checks import require_finite


def interval(values: Float[np.ndarray, " sample"], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, the same at every call.

    Raises ValueError if there is no sample, or one that is NaN or infinite.
    """
    values = np.asarray(values, dtype=float)
    if not values.size:
        raise ValueError("there is no sample, so no mean and no interval")
    require_finite(values, "samples")
    picks = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)
