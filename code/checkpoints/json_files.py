"""JSON files that come with checkpoints, read within bounds: what they say, and of which kind."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoints.errors import CheckpointError

LARGEST = 2**20  # bytes; the index of the largest CLIP's shards has about a tenth
DEEPEST = 20  # objects and lists within one another; configurations have about five


def read_json(path: Path) -> "Section":
    """The object in a JSON file. CheckpointError if it is none, is damaged, too large or deep."""
    too_deep = CheckpointError(f"{path} is refused: it is nested too deeply")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise CheckpointError(f"{path} is refused: it has more than {LARGEST:,} bytes")
        values = json.loads(content)
    except RecursionError as error:
        raise too_deep from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not JSON: {str(error)[:200]}") from error
    if is_deep(values):
        raise too_deep
    return Section(values, str(path))


def is_deep(values: Any) -> bool:
    level = [values]
    for _ in range(DEEPEST):
        lists = [one.values() if isinstance(one, dict) else one for one in level]
        lists = [one for one in lists if not isinstance(one, str | int | float | None)]
        level = [inner for one in lists for inner in one]
    return bool(level)


class Section:
    """The values under a name of a configuration; each must be of the kind that is asked for.

    What is missing, or null, is the default.
    """

    def __init__(self, values: Any, name: str):
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{name} is {values!r:.60}, and not an object with names")
        self.values, self.name = values, name

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def section(self, key: str) -> "Section":
        return Section(self.get(key, {}), f"{self.name}: {key}")

    def whole(self, key: str, default: Any = None) -> int:
        """A whole number from 1."""
        value = self.get(key, default)
        if type(value) is not int or not 0 < value < 2**31:
            raise self.wrong(key, "a whole number from 1")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number above 0."""
        value = self.get(key, default)
        if not is_number(value) or not 0 < value < 2**31:
            raise self.wrong(key, "a number above 0")
        return float(value)

    def side(self, key: str, default: int) -> int:
        """Of a square, given as one number or as two."""
        value = self.get(key, default)
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        if type(value) is not int or not 0 < value < 2**31:
            raise self.wrong(key, "the side of a square: others are not read")
        return value

    def colours(self, key: str, default: tuple) -> tuple[float, float, float]:
        """Red, green and blue, or one number for the three."""
        value = self.get(key, default)
        value = value if isinstance(value, list | tuple) else [value] * 3
        if len(value) != 3 or not all(map(is_number, value)):
            raise self.wrong(key, "three numbers")
        return tuple(map(float, value))

    def one_of(self, key: str, known: Mapping[str, Any], default: str) -> Any:
        """What `known` has for the value."""
        value = self.get(key, default)
        if type(value) not in (str, int) or value not in known:
            raise self.wrong(key, f"one of {list(known)}")
        return known[value]

    def wrong(self, key: str, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"{self.name}: {key} must be {wanted}; it is {self.values.get(key)!r:.60}"
        )


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9 and math.isfinite(value)
