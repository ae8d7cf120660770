"""A hook with which `load_state_dict` reads checkpoints of the code that a layer has replaced."""

from collections.abc import MutableMapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..core import checks
from ..modules.cell import RecurrentCell
from ..modules.stack import RecurrentStack
from .formats import Format, Native
from .sources import find_format
from .state_dict import rename


def hook(
    module: nn.Module,
    source: str | Format,
    prefix: str = "",
    *,
    missing_peephole: str | None = None,
    without_input: bool = False,
    dense: bool = False,
) -> RemovableHandle:
    """Let `load_state_dict` read the checkpoints of other code, in a model whose layer has been replaced.

        model.rnn = ConvLSTM2d(1, [64, 64], 3, peephole="none")
        convert.hook(model.rnn, "ndrplz")
        model.load_state_dict(checkpoint)  # with rnn.cell_list.0.conv.weight, …

    Checkpoints in this package's own format are loaded as before. The sizes and options are those of the layer; what
    does not fit them is an error of `load_state_dict`.

    Args:
        module: the layer or cell, or a model with one such layer or cell.
        source, missing_peephole, without_input, dense: as in `convert.rename`. Peepholes of zero take the form that the
            layer's have.
        prefix: with which the source's keys begin, after the module's own place in the model: "old_rnn." for a model
            in which the layer's name has changed too. Keys that the model itself expects are left to it.

    Returns:
        A handle whose `remove()` removes the hook.

    Raises:
        ValueError, TypeError: for wrong arguments; when a checkpoint is loaded, as `convert.rename`.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a module, got {checks.describe(module)}")
    find_format(source)
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, got {checks.show(prefix)}")
    _find_layer(module)
    keywords = {"missing_peephole": missing_peephole, "without_input": without_input, "dense": dense}
    return module.register_load_state_dict_pre_hook(_Hook(source, prefix, keywords))


@dataclass
class _Hook:
    """It keeps no module, so that a model with it can be copied and pickled."""

    source: str | Format
    prefix: str
    keywords: dict[str, object]

    def __call__(self, module: nn.Module, state_dict: MutableMapping[str, Tensor], place: str, *_: object) -> None:
        """Replace the source's keys by the layer's, in place. `place`: where the module is in the model."""
        name, layer = _find_layer(module)
        own = layer.state_dict()
        target = f"{place}{name}." if name else place
        if any(target + key in state_dict for key in own):
            return
        others = {place + key for key in module.state_dict() if not key.startswith(f"{name}.")} if name else set()
        found = {
            key: value for key, value in state_dict.items() if key.startswith(place + self.prefix) and key not in others
        }
        native = Native("") if isinstance(layer, RecurrentCell) else Native()
        renamed = rename(found, self.source, native, prefix=place + self.prefix, **self.keywords)
        for key in found:
            del state_dict[key]
        for key, tensor in renamed.items():
            if key.endswith("peephole") and self.keywords["missing_peephole"] and not tensor.any():
                if key not in own:
                    continue
                tensor = tensor.new_zeros(own[key].shape)
            state_dict[target + key] = tensor


def _find_layer(module: nn.Module) -> tuple[str, RecurrentStack | RecurrentCell]:
    """The one layer of this package in a module, or a cell that is in no layer, and its name there; "" for itself."""
    found: dict[str, nn.Module] = {}
    for name, each in module.named_modules():  # a layer comes before its cells
        is_inside = any(not above or name.startswith(f"{above}.") for above in found)
        if isinstance(each, (RecurrentStack, RecurrentCell)) and not is_inside:
            found[name] = each
    if len(found) != 1:
        names = ", ".join(found) or "none"
        raise ValueError(f"module: expected a layer of this package, or a model with one of them, got one with {names}")
    return found.popitem()
