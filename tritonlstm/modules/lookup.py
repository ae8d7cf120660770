"""A module's parameters and children. `nn.Module.__getattr__` takes too long for that in a step of microseconds."""

import functools

import torch
from torch import Tensor, nn


def parameters(module: nn.Module, names: tuple[str, ...]) -> list[Tensor | None]:
    """[getattr(module, name) for name in names]. Works for parametrized parameters, buffers and plain tensors too."""
    if torch.compiler.is_compiling():
        return [getattr(module, name) for name in names]
    own, instance, of_class = module._parameters, module.__dict__, _of_class(type(module), names)
    return [
        own[name] if name in own and name not in instance and name not in of_class else getattr(module, name)
        for name in names
    ]


@functools.lru_cache(maxsize=256)
def _of_class(kind: type, names: tuple[str, ...]) -> frozenset[str]:
    """Which of these names a class has, such as those of properties."""
    return frozenset(name for name in names if hasattr(kind, name))


def children(module: nn.Module, name: str) -> list[nn.Module]:
    """list(getattr(module, name)), of a ModuleList."""
    modules = module._modules.get(name)
    return list(modules._modules.values() if type(modules) is nn.ModuleList else getattr(module, name))
