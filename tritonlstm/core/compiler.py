"""What torch.compile is told about functions that it cannot trace."""

from collections.abc import Callable


def constant_when_compiled(function: Callable) -> Callable:
    """torch.compile calls this function while it traces, and takes the result for a constant.

    As `torch.compiler.assume_constant_result`, which would import the compiler, with hundreds of modules, for every
    program that imports this package.
    """
    function._dynamo_marked_constant = True
    return function
