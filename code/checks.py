"""What would make a map wrong without a word is refused where it enters, or kept away."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_internals


def require_finite(values: Tensor | np.ndarray, what: str) -> None:
    """Raise ValueError if there is NaN or infinity among `values`; `what` names them, plural."""
    values = torch.as_tensor(values)
    if values.sum().isfinite():  # one of them would have spoilt the sum
        return
    wrong = int((~values.isfinite()).sum())
    if wrong:
        raise ValueError(f"{what} hold NaN or infinity ({wrong:,} of {values.numel():,} values)")


def require_tensor(value: object, what: str) -> None:
    """Raise TypeError unless `value` is a tensor; `what` says which it must be."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{what}; got {type_name(value)}")


def type_name(value: object) -> str:
    """The type of a value as users know it: `str`, `PIL.Image.Image`, `model.CLIP`."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def require_differentiable(model: nn.Module) -> None:
    """Raise ValueError for a model made in inference mode: autograd may not read its tensors."""
    own = (vars(module) for module in model.modules())
    tensors = (t for one in own for t in [*one["_parameters"].values(), *one["_buffers"].values()])
    if any(tensor is not None and tensor.is_inference() for tensor in tensors):
        raise ValueError(
            "the model was loaded or moved inside torch.inference_mode(), so it cannot be "
            "differentiated: load it outside, or explain copy.deepcopy(model), made outside"
        )


def require_derivatives(output: Tensor) -> None:
    """Raise ValueError if autograd would take what it cannot differentiate for a constant."""
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("NotImplemented"):
            raise ValueError(
                "a layer between what is explained and the features has no derivative: is it "
                "quantised? The layers there must be of floats"
            )
        nodes.extend(before for before, _ in node.next_functions)


def is_plain(module: nn.Module) -> bool:
    """Whether `module` and all modules in it do what their classes here and in torch.nn say.

    Only then may a shortcut stand for calling them. Not plain are hooks, a `forward` that was
    replaced, and other classes: those of users, adapters (LoRA) and parametrisations. What
    `torch.compile` returned for a module is as plain as the module.
    """
    return all(map(is_plain_itself, module.modules()))


def is_plain_itself(module: nn.Module) -> bool:
    """Whatever the modules in it do."""
    if module_internals._has_any_global_hook():
        return False
    hooks = module._forward_hooks, module._forward_pre_hooks
    if any(hooks) or module._backward_hooks or module._backward_pre_hooks:
        return False
    kind = type(module)
    if kind.__module__ == "torch._dynamo.eval_frame":
        return True
    known = kind.__module__ == "model" or kind.__module__.startswith("torch.nn.modules.")
    return known and kind.forward.__module__ == kind.__module__ and "forward" not in vars(module)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Inside the block gradients are enabled and nothing is cast, whatever the caller has set.

    Inference mode would switch autograd off for good, and autocast would halve the precision.
    Tensors made in inference mode must be copied inside the block to be differentiated.
    """
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        yield
