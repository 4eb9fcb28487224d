"""A model to do with as one likes: what is done to its twin never reaches the model itself."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import is_
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

# What a bare module keeps in dictionaries: parameters, buffers, children, hooks.
STATE = {name for name, value in vars(nn.Module()).items() if isinstance(value, dict)}

SIMPLE = {bool, int, float, str, type(None)}  # most attributes are such, or tuples of such


def twins(model: nn.Module) -> dict[Any, Any]:
    """For the model and each module in it a twin, in evaluation mode, that computes the same.

    A twin has the parameters, buffers, hooks and attributes of its module, and no tensor is copied;
    but its mode, the hooks added to it and the attributes set on it later are its own. So there is
    nothing to undo on the model, whatever interrupts a call, and neither another thread nor a child
    process sees anything of it. It costs some microseconds a module.

    Where modules refer to each other, twins refer to twins; what was compiled runs uncompiled. A
    TorchScript module can have no twin and stands for itself: ValueError if it is in training mode.
    """
    of = {}
    for module in model.modules():
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted and module.training:
            raise ValueError(
                f"the TorchScript module {module.original_name} is in training mode, which it "
                "cannot leave for one call alone: call .eval() on the model before"
            )
        of[module] = module if scripted else object.__new__(type(module))
    for module, twin in list(of.items()):
        if twin is not module:
            vars(twin).update(state_of(module, of))
    return of


def state_of(module: nn.Module, of: dict[Any, Any]) -> dict[str, Any]:
    """The attributes of a module's twin."""
    state = vars(module).copy()  # at once: another thread may be setting some
    for name, value in state.items():
        if type(value) in SIMPLE:
            continue
        if name not in STATE:
            state[name] = follow(value, of)
        elif not value:
            state[name] = type(value)()
        else:
            state[name] = held = value.copy()
            for key, one in held.items():
                held[key] = twin_of(one, of)
    if "_orig_mod" in state["_modules"]:  # what torch.compile returned for a module
        state["forward"] = state["_modules"]["_orig_mod"]
    return state | {"training": False, "_compiled_call_impl": None}


def twin_of(value: Any, of: dict[Any, Any]) -> Any:
    """A module's twin, or the twin's method for the module's; anything else as it is."""
    if isinstance(value, nn.Module):
        return of.get(value, value)
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        function, owner = follow(value.__func__, of), of.get(value.__self__, value.__self__)
        return value if owner is value.__self__ else MethodType(function, owner)
    return value


def follow(value: Any, of: dict[Any, Any]) -> Any:
    """`value` with twins for the modules that it holds or, as a replaced `forward` does, calls.

    Where there are none it is the same object.
    """
    kind = type(value)
    if kind in (list, tuple):
        if SIMPLE.issuperset(map(type, value)):
            return value
        found = [twin_of(one, of) for one in value]
        return value if all(map(is_, found, value)) else kind(found)
    if kind in (dict, OrderedDict):
        found = [twin_of(one, of) for one in value.values()]
        same = all(map(is_, found, value.values()))
        return value if same else kind(zip(value, found, strict=True))
    if kind is partial:
        given, named = follow(value.args, of), follow(value.keywords, of)
        return partial(follow(value.func, of), *given, **named)
    if kind is FunctionType:
        if value not in of:
            of[value] = value  # it may refer to itself
            of[value] = follow_function(value, of)
        return of[value]
    return twin_of(value, of)


def follow_function(function: FunctionType, of: dict[Any, Any]) -> Any:
    """A function that finds twins in its closure, its defaults and its globals."""
    if hasattr(function, "_torchdynamo_orig_callable"):  # compiled
        return follow(function._torchdynamo_orig_callable, of)
    cells = tuple(
        cell if found is cell.cell_contents else CellType(found)
        for cell in function.__closure__ or ()
        for found in [follow(cell.cell_contents, of)]
    )
    code, known = function.__code__, function.__globals__
    used = {name: known[name] for name in code.co_names if name in known}
    rest = (function.__defaults__, function.__kwdefaults__, used)
    defaults, named, found = after = [follow(held, of) for held in rest]
    if all(map(is_, (*cells, *after), (*(function.__closure__ or ()), *rest))):
        return function
    twin = FunctionType(code, known | found, function.__name__, defaults, cells)
    twin.__kwdefaults__ = named
    return twin


@contextmanager
def hooked(
    layers: Sequence[nn.Module], hook: Callable[[int, Tensor], Tensor], first: bool = False
) -> Iterator[None]:
    """Inside the block, layer number i, a twin, puts out `hook(i, output)`, behind (or, if `first`,
    before) what its other hooks make of its output.
    """

    def call(index: int, _layer: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        return hook(index, output)

    handles = [
        layer.register_forward_hook(partial(call, index), prepend=first)
        for index, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
