"""Registers operators with PyTorch, which defines each of them once per process.

A program may import this package more than once: a reloader does, a notebook that deletes modules, or two copies on the
path. So PyTorch gets functions that look up the implementation, and a later import replaces what they find: the newest
copy serves all.
"""

from collections.abc import Callable

import torch

NAMESPACE = "tritonlstm"
TAGS = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)

# Kept where the operators are, so that it lives as long as they do.
_functions: dict[tuple[str, str], Callable] = vars(getattr(torch.ops, NAMESPACE)).setdefault("_functions", {})
_schemas: dict[str, str] = vars(getattr(torch.ops, NAMESPACE)).setdefault("_schemas", {})


def define(name: str, schema: str, implementation: Callable, fake: Callable, vmap: Callable | None = None) -> None:
    """Define an operator with its implementation for every device, its fake, and its batching rule.

    Raises ImportError where another version of the package has defined it with another schema.
    """
    qualified, is_new = f"{NAMESPACE}::{name}", name not in _schemas
    if not is_new and _schemas[name] != schema:
        raise ImportError(
            f"{qualified} was defined by another version of this package, imported earlier in this process, with the"
            f" schema {_schemas[name]}; this version has {schema}. Start a new process to change versions"
        )
    implementation, fake = _latest(name, "implementation", implementation), _latest(name, "fake", fake)
    vmap = vmap and _latest(name, "vmap", vmap)
    if is_new:
        torch.library.define(qualified, schema, tags=TAGS)
        torch.library.impl(qualified, "CompositeExplicitAutograd", implementation)
        torch.library.register_fake(qualified, fake)
        if vmap is not None:
            torch.library.register_vmap(qualified, vmap)
            torch.library.impl(qualified, "Batched", _refuse_older_vmap)
        _schemas[name] = schema


def register_autograd(name: str, backward: Callable, setup_context: Callable | None = None) -> None:
    """The gradient of an operator, as `torch.library.register_autograd` takes it."""
    is_new = (name, "backward") not in _functions
    backward = _latest(name, "backward", backward)
    setup_context = setup_context and _latest(name, "setup_context", setup_context)
    if is_new:
        torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=setup_context)


def _refuse_older_vmap(*_: object) -> None:
    """PyTorch's vmap from before torch.func, which has no rules for the operators of libraries."""
    raise RuntimeError(
        "tritonlstm: is_grads_batched=True and vectorize=True run a vmap older than torch.func, which this backend does"
        ' not support; use torch.func.vmap over torch.func.vjp, torch.func.jacrev, or backend="torch"'
    )


def _latest(name: str, role: str, function: Callable) -> Callable:
    """A function that calls whichever was last passed for this role of this operator: now `function`."""
    key = name, role
    _functions[key] = function
    return lambda *args, **kwargs: _functions[key](*args, **kwargs)
