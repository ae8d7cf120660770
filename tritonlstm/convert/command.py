"""`tritonlstm convert`: weights of other code from file to file, and a look at what a file holds."""

import argparse
import ast
import os
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

import torch

from ..core import files, output
from ..core.checks import describe
from ..modules.stack import RecurrentStack
from .constructor import constructor
from .files import Contents, check_suffix, read, save
from .load import load, tries
from .sources import SOURCES, find_format
from .state_dict import to_state_dict

_OWN = "tritonlstm"
_MOST_PROBLEMS = 10
_ERRORS = (OSError, ImportError, MemoryError, TypeError, ValueError)


def add_to(commands: argparse._SubParsersAction) -> None:
    """Add the command to those of `tritonlstm`."""
    parser = commands.add_parser(
        "convert",
        help="convert the weights of other ConvLSTM and LSTM code, or ours to theirs",
        description="Read the layer that a file holds, and write its weights for tritonlstm or, with --as, for other"
        " code. Files of PyTorch, safetensors, NumPy (.npz) and Keras (.keras, .weights.h5) are read; nothing in them"
        " is executed.",
        epilog=f"Sources: {', '.join(SOURCES)}. Code of your own is described in Python, by tritonlstm.convert.Joint,"
        " Split or PerGate.",
    )
    parser.add_argument("file", type=Path, metavar="IN", help="the file to read")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="the file to write: .safetensors, .pt or .pth")
    parser.add_argument("--inspect", action="store_true", help="print what the file holds and which sources fit")
    parser.add_argument(
        "--source", type=_source, metavar="NAME", help="the code that wrote the file; a .keras file says it itself"
    )
    parser.add_argument(
        "--prefix",
        default="",
        metavar="P",
        help="with which the layer's keys begin; for a .keras file the layer's name",
    )
    parser.add_argument(
        "--as", type=_source, default=_OWN, metavar="NAME", dest="target", help="the code to write for (%(default)s)"
    )
    parser.add_argument(
        "--missing-peephole", choices=("zeros",), help="take peepholes that the file lacks for zero, not for an error"
    )
    parser.add_argument(
        "--without-input",
        action="store_true",
        help="leave out the first layer's input, for a layer that was only ever given zeros",
    )
    parser.add_argument(
        "--dense", action="store_true", help="write the dense convolution in place of a depthwise separable one"
    )
    parser.add_argument(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="options",
        help="an option of the layer that its weights do not tell, as padding=same or activation=relu; may be repeated",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT where it exists")
    parser.set_defaults(run=partial(_run, parser))


def _source(text: str) -> str:
    try:
        return find_format(text)[0]
    except ValueError as error:
        message = str(error).removeprefix("source: ").replace(", or a description", "")
        raise argparse.ArgumentTypeError(message) from None


def _option(text: str) -> tuple[str, object]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, as padding=same, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.inspect:
        for name in ("out", "source", "options", "missing_peephole", "without_input", "dense", "force"):
            if getattr(options, name):
                name = {"out": "OUT", "options": "--option"}.get(name, f"--{name.replace('_', '-')}")
                parser.error(f"argument --inspect: not allowed with {name}, since nothing is converted")
        return _inspect(options.file, options.prefix)
    if options.out is None:
        parser.error("argument OUT: expected a file to write, or --inspect")
    _check_out(parser, options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            layer = load(options.file, options.source, options.prefix, **_keywords(options))
            written = to_state_dict(layer, options.target)
        except _ERRORS as error:
            return output.fail(_reason(options.file, "read", error))
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        output.warn(message)
    try:
        save(options.out, written)
    except _ERRORS as error:
        return output.fail(_reason(options.out, "written", error))
    print("\n".join(_report(options, layer)))
    return 0


def _keywords(options: argparse.Namespace) -> dict[str, object]:
    """The keywords of `load`."""
    keywords = {name: getattr(options, name) for name in ("missing_peephole", "without_input", "dense")}
    return keywords | dict(options.options)


def _check_out(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse, before any work, a file that must not be written."""
    file, out = options.file, options.out
    try:
        check_suffix("OUT", out)
        files.check_target(out)
        exists = out.exists()
        if os.path.realpath(file) == os.path.realpath(out) or (exists and file.exists() and out.samefile(file)):
            parser.error(f"argument OUT: expected another file than IN, got {out}")
    except ValueError as error:
        parser.error(f"argument OUT: {str(error).removeprefix('OUT: ')}")
    except OSError:
        return  # reported when it is read or written
    if exists and not options.force:
        parser.error(f"argument OUT: {out} exists; --force replaces it")


def _reason(path: Path, verb: str, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{path} cannot be {verb} ({error.strerror})"
    if isinstance(error, MemoryError):
        return f"{path} cannot be {verb} (out of memory)"
    message = str(error)
    return message if message.startswith(f"{path}: ") else f"{path}: {message}"


def _report(options: argparse.Namespace, layer: RecurrentStack) -> Iterator[str]:
    """What was written, and how it is loaded."""
    out, kind = str(options.out), type(layer).__name__
    count = f"{layer.num_layers} layer{'s' * (layer.num_layers > 1)}"
    if options.target != _OWN:
        yield output.printable(f"written to {out}: {count}, with the keys, shapes and gate order of {options.target}")
        return
    yield output.printable(f"written to {out}: {count}, loaded by")
    is_safe = options.out.suffix == ".safetensors"
    read_it = f"load_file({out!r})" if is_safe else f"torch.load({out!r}, weights_only=True)"
    build = constructor(layer)
    yield ""
    yield from ["    import torch"] * ("torch." in build + read_it)
    yield from ["    from safetensors.torch import load_file"] * is_safe
    yield f"    from tritonlstm import {kind}"
    yield ""
    yield f"    layer = {build}"
    yield f"    layer.load_state_dict({read_it})"


def _inspect(path: Path, prefix: str) -> int:
    try:
        contents = read(path, None)
    except _ERRORS as error:
        return output.fail(_reason(path, "read", error))
    shown = {key: value for key, value in contents.values.items() if key.startswith(prefix)}
    under = f", {len(shown)} of them under {prefix!r}" if prefix else ""
    print(output.printable(f"{path}: {len(contents.values)} values{under}"))
    width = max(map(len, map(output.printable, shown)), default=0)
    for key, value in shown.items():
        print(f"  {output.printable(key):{width}}  {output.printable(_describe(value))}")
    print()
    print("\n".join(map(output.printable, _advice(contents, prefix))))
    return 0


def _describe(value: object) -> str:
    """A tensor's or an array's shape and dtype, else the type."""
    if isinstance(value, torch.Tensor) and value.is_nested:
        return "nested tensor"
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return describe(value)
    return f"{tuple(value.shape)}  {str(value.dtype).removeprefix('torch.')}"


def _advice(contents: Contents, prefix: str) -> Iterator[str]:
    """Which sources fit, and what that means."""
    if contents.layers:
        yield "The file says what its recurrent layers are. --prefix chooses one by its name:"
        yield from (f"  --prefix {name}" for name in contents.layers)
        return
    values = {key: value for key, value in contents.values.items() if key.startswith(prefix)}
    results = sorted(tries(values), key=lambda result: result[0].prefix)
    found = [fit for fit, problem in results if problem is None]
    if found:
        yield "By keys and shapes it may be from these sources, one of which --source names:"
        for place, group in groupby(found, key=lambda fit: fit.prefix):
            yield f"  {_where(place)}: {', '.join(fit.source for fit in group)}"
        yield "Equal shapes hide different gate orders and equations, and no error tells a wrong source from the right"
        yield "one: choose that whose code wrote the file."
        return
    yield "No source has these keys and shapes, under any prefix."
    for fit, problem in results[:_MOST_PROBLEMS]:
        yield f"  {_where(fit.prefix)}, {fit.source}: {problem}"
    if len(results) > _MOST_PROBLEMS:
        yield f"  and {len(results) - _MOST_PROBLEMS} more"


def _where(prefix: str) -> str:
    return f"--prefix {prefix}" if prefix else "without a prefix"
