"""What would make a map wrong without a word is refused where it enters."""

import numpy as np
import torch
from torch import Tensor


def require_finite(values: Tensor | np.ndarray, what: str) -> None:
    """Raise ValueError if there is NaN or infinity among `values`; `what` names them, plural."""
    values = torch.as_tensor(values)
    wrong = int((~values.isfinite()).sum())
    if wrong:
        raise ValueError(f"{what} hold NaN or infinity ({wrong:,} of {values.numel():,} values)")
