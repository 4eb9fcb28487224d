"""What would make a map wrong without a word is refused where it enters."""

from argparse import ArgumentTypeError

import numpy as np
import torch
from torch import Tensor


def require_finite(values: Tensor | np.ndarray, what: str) -> None:
    """Raise ValueError if there is NaN or infinity among `values`; `what` names them, plural."""
    values = torch.as_tensor(values)
    wrong = int((~values.isfinite()).sum())
    if wrong:
        raise ValueError(f"{what} hold NaN or infinity ({wrong:,} of {values.numel():,} values)")


def at_least_one(text: str) -> int:
    """A number of something to be measured, as a command's argument."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number, 1 or more; got {text!r}")
    return int(text)
