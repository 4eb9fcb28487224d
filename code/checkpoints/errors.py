"""What may go wrong with a file, said by its name."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoints.tensor_pickles import reason

# What to do with a model that is not of the classic layout.
AS_IT_IS = (
    "its model object can be explained as it is: give it to relevance_maps, by from_open_clip or "
    "from_transformers (recording)"
)


class CheckpointError(RuntimeError, ValueError):
    """Weights could not be had. A RuntimeError, as the official package raises."""


class AnotherNetwork(CheckpointError):
    """The weights are of a network that is not ours."""

    def __init__(self, problem: str):
        super().__init__(f"{problem}; {AS_IT_IS}")


@contextmanager
def errors_of(path: Path, damaged: bool = False) -> Iterator[None]:
    """Errors as CheckpointErrors that name the file; `damaged`: what is not expected tells damage.

    A damaged file can make a reader fail in any way, but too little memory is not damage.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or re.search("allocate memory|enough memory", str(error)):
            problem = " needs more memory than there is"
        elif isinstance(error, PermissionError):
            problem = f" cannot be opened: {error}"
        elif damaged:
            problem = f" is cut off or damaged: {reason(error)}"
        elif isinstance(error, ValueError):
            problem = f": {error}"
        else:
            raise
        raise CheckpointError(f"{path}{problem}") from error
