"""Make Triton's interpreter round as GPUs do, and not do again what it has done.

Triton 3.6 and 3.7 interpret a cast from float32 to bfloat16 by cutting the mantissa off; compiled code rounds to
nearest even. Half a digit more of error in every stored number would hide behind no honest tolerance, so the tests
mend it.

Before a kernel runs, the interpreter replaces the functions of `triton.language` with its own, and afterwards puts the
originals back. It goes through the language again at each call from a kernel to another function, when all of them are
replaced already, which took half of its time: the tests leave that out.
"""

import functools
import inspect

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter


def round_to_nearest() -> None:
    """Replace the interpreter's cast from float32 to bfloat16."""
    convert = interpreter._convert_float

    def convert_float(data, source, target, rounding_mode):
        if (source, target) == (tl.float32, tl.bfloat16):
            rounded = torch.from_numpy(np.ascontiguousarray(data, np.float32)).bfloat16()
            return rounded.view(torch.uint16).numpy().reshape(data.shape)
        return convert(data, source, target, rounding_mode)

    interpreter._convert_float = convert_float


def patch_the_language_once() -> None:
    """Have the interpreter replace the language's functions once for each launch, and not for the calls within it."""
    patch, restore = interpreter._patch_lang, interpreter._LangPatchScope.restore
    patched = []  # in this launch: the modules whose functions are replaced; empty between launches

    def patch_lang(function):
        modules = _language_of(function)
        if modules <= set(patched):
            return None  # a call within a launch, which puts nothing back
        scope = patch(function)
        patched.extend(modules)
        return scope

    def restore_and_forget(scope):
        patched.clear()
        restore(scope)

    interpreter._patch_lang, interpreter._LangPatchScope.restore = patch_lang, restore_and_forget


@functools.cache
def _language_of(function) -> set[str]:
    """Which of the language's modules the interpreter looks for among the globals of a function, and finds."""
    modules = [value for value in function.__globals__.values() if inspect.ismodule(value)]
    return {module.__name__ for module in (tl, tl.core) if module in modules}
