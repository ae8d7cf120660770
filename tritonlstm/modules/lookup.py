"""A module's parameters and children. `nn.Module.__getattr__` takes too long for that in a step of microseconds."""

from collections.abc import Sequence

from torch import Tensor, nn


def parameters(module: nn.Module, names: Sequence[str]) -> list[Tensor | None]:
    """[getattr(module, name) for name in names]. Works for parametrized parameters, buffers and plain tensors too."""
    own, instance, kind = module._parameters, module.__dict__, type(module)
    return [
        own[name] if name in own and name not in instance and not hasattr(kind, name) else getattr(module, name)
        for name in names
    ]


def children(module: nn.Module, name: str) -> list[nn.Module]:
    """list(getattr(module, name)), of a ModuleList."""
    modules = module._modules.get(name)
    return list(modules._modules.values() if type(modules) is nn.ModuleList else getattr(module, name))
