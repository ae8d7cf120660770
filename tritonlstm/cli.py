"""The command `tritonlstm`: `tune` searches for launch configurations, `info` shows which ones are in use, `convert`
moves weights from and to other code.
"""

import argparse
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import torch

from . import __version__
from .convert import command as convert
from .core import backend, files, output
from .core.devices import architecture
from .launch import cache, config
from .launch.tables import KERNELS
from .tuning import store
from .tuning.cases import CASES, Case

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
DTYPES = ("bf16", "fp16", "fp32")
_NO_CACHE = "HOME, XDG_CACHE_HOME and TRITONLSTM_CACHE_DIR are not set"


def main(arguments: Sequence[str] | None = None) -> int:
    output.make_robust()
    options = _parser().parse_args(arguments)
    return options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tritonlstm", description="ConvLSTM layers: tuning, information, conversion.")
    parser.add_argument("--version", action="version", version=f"tritonlstm {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)

    tune = commands.add_parser(
        "tune",
        help="search for the launch configurations of some layers",
        description="Search for the launch configurations of some layers. Candidates are compiled ahead of time. On a"
        " CUDA device the best of them are checked against the reference and timed, and the fastest are written to your"
        " cache. Without a device they are ranked statically, and nothing is written except to a file given by --out.",
    )
    tune.add_argument(
        "cases", nargs="*", metavar="case", help=f"named layers: {', '.join(CASES)}; all, if none is given"
    )
    tune.add_argument(
        "--channels", type=_count, nargs="+", metavar="C", help="hidden channels of a custom stack of layers"
    )
    tune.add_argument(
        "--in-channels", type=_count, metavar="N", help="its input channels (hidden channels of its first layer)"
    )
    tune.add_argument("--size", type=_size, metavar="HxW", help="its image size (64x64)")
    tune.add_argument("--kernel-size", type=_odd, metavar="K", help="its odd kernel size (3)")
    tune.add_argument("--batch", type=_count, metavar="B", help="its batch size (8)")
    tune.add_argument("--steps", type=_count, metavar="T", help="its number of time steps (10)")
    tune.add_argument("--dtype", choices=DTYPES, default="bf16", help="dtype of the layers (%(default)s)")
    tune.add_argument(
        "--kernels", nargs="+", choices=KERNELS, default=KERNELS, help="tune only these kernels, and no schedules (all)"
    )
    tune.add_argument(
        "--launch-pdl", action="store_true", help="also try programmatic dependent launch (sm_90 and higher)"
    )
    tune.add_argument("--arch", choices=ARCHITECTURES, help="target architecture without a device (sm_90)")
    tune.add_argument("--jobs", type=_count, metavar="N", help="compile in N processes (one per core, at most 8)")
    tune.add_argument("--out", type=Path, metavar="FILE", help="write the table to this file instead of your cache")
    tune.add_argument("--report", type=Path, metavar="FILE", help="write all candidates to this CSV file")
    tune.add_argument("--dry-run", action="store_true", help="print what would be done, and exit")
    tune.set_defaults(run=partial(_tune, tune))

    info = commands.add_parser("info", help="print versions, device, backend and the source of each configuration")
    info.add_argument(
        "--arch", type=_architecture, help="architecture of the configurations (that of the device, or sm_90)"
    )
    info.set_defaults(run=_info)

    convert.add_to(commands)
    return parser


def _tune(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    cases = _cases(parser, options)
    if options.dry_run and options.report:
        parser.error("argument --report: a dry run has nothing to report")
    if not has_triton():
        return output.fail("the package triton is not installed: there is nothing to tune")
    from .tuning import aot, report, tune  # these need Triton

    device = tune.cuda_device()
    if device is None:
        device = tune.Device(options.arch or "sm_90", "none", timed=False)
    elif options.arch not in (None, device.arch):
        parser.error(f"argument --arch: this machine has {device.name}, which is {device.arch}")
    if options.launch_pdl and not config.has_launch_pdl(device.arch):
        parser.error(f"argument --launch-pdl: expected sm_90 or higher, got {device.arch}")
    plan = tune.plan(device, cases, options.dtype, options.kernels, launch_pdl=options.launch_pdl)
    target = options.out or (cache.path_of(device.arch) if device.timed else None)
    if device.timed and target is None:
        parser.error(f"argument --out: needed, since there is no cache ({_NO_CACHE})")
    _check_targets(parser, {"--out": (target, store.read), "--report": (options.report, report.check_csv)})
    where = f"{device.name} ({device.arch})" if device.timed else f"{device.arch}, without a device"
    print("\n  ".join([f"tuning {options.dtype} for {where}:", *map(str, cases)]))
    if options.dry_run:
        for key in plan.launches:
            number = len(plan.candidates(key))
            print(f"{number} candidates for {key.kernel} at {key.channels} channels")
        if plan.layers:
            print(f"two schedules for each of {len(plan.layers)} layers")
        goal = f"the results would go to {target}" if target else "without --out nothing would be written"
        print(f"dry run: nothing was compiled or timed; {goal}")
        return 0
    if aot.interprets():
        return output.fail("TRITON_INTERPRET is set: Triton interprets the kernels, and compiles none; unset it")

    outcomes = tune.run(plan, options.jobs, tune.cuda_bench() if device.timed else None)
    print(report.table(plan, outcomes))
    if not device.timed:
        print("no CUDA device: nothing was timed, the candidates are ranked statically")
    saved = True
    if options.report:
        saved &= _save("--report", options.report, lambda: report.write_csv(plan, outcomes, options.report))
    if target:
        measured = f"{device.name}, {date.today()}, tritonlstm {__version__}" if device.timed else tune.NOT_TIMED
        table = tune.rows(outcomes, measured)
        saved &= _save("--out", target, lambda: store.update(target, device.header, table, measured))
    else:
        print("nothing was written to your cache: --out FILE keeps the ranking")
    return 0 if saved else 1


def _check_targets(parser: argparse.ArgumentParser, targets: dict[str, tuple[Path | None, Callable]]) -> None:
    """Refuse, before the search, files that its results must not overwrite. `targets`: by option, with their checks."""
    seen = {}
    for option, (path, check) in targets.items():
        if path is None:
            continue
        real = os.path.realpath(path)
        if real in seen:
            parser.error(f"argument {option}: expected another file than that of {seen[real]}, got {path}")
        seen[real] = option
        try:
            files.check_target(path)
            check(path)
        except ValueError as error:
            parser.error(f"argument {option}: {error}")
        except OSError:
            pass  # reported with the results, which are printed in any case


def _save(option: str, path: Path, write: Callable[[], str | None]) -> bool:
    """Write `path` by calling `write`, and print the outcome. Returns whether it succeeded."""
    try:
        note = write()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        print(
            f"tritonlstm: {path} cannot be written ({reason}); the results are printed above, and"
            f" {option} FILE writes them elsewhere",
            file=sys.stderr,
        )
        return False
    print(f"written to {path}" + (f"; {note}" if note else ""))
    return True


def _info(options: argparse.Namespace) -> int:
    device, arch = "none that CUDA or HIP finds", "sm_90"
    if torch.cuda.is_available():
        index = torch.cuda.current_device()
        arch = architecture(torch.device("cuda", index))
        device = f"{torch.cuda.get_device_name(index)} ({arch})"
    arch = options.arch or arch
    lines = {
        "tritonlstm": __version__,
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'}, HIP {torch.version.hip or 'none'})",
        "triton": cache.triton_version(),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "device": device,
        "backend": _backend_sentence(),
        "cache": _cache_sentence(arch),
    }
    print("\n".join(f"{name:12}{output.printable(line)}" for name, line in lines.items()))
    print(f"\nconfigurations (BLOCK/num_warps, pdl: programmatic dependent launch) and schedules on {arch}:")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cache.TuningCacheWarning)  # already reported in the line on the cache
        print("\n".join(map(output.printable, _configurations(arch))))
    return 0


def _backend_sentence() -> str:
    if not has_triton():
        return '"auto" runs in ATen calls: triton is not installed'
    if backend.interprets():
        return 'TRITON_INTERPRET is set: "triton" interprets the kernels on the CPU, where "auto" runs in ATen calls'
    return '"auto" runs in ' + ("Triton on CUDA tensors" if torch.cuda.is_available() else "ATen calls: no CUDA device")


def _cache_sentence(arch: str) -> str:
    path = cache.path_of(arch)
    if path is None:
        return f"none: {_NO_CACHE}"
    table, problem = cache.examine(path, arch)
    if problem:
        return f"{path} is not used: {problem}"
    if table is None:
        return f"{path}: no such file"
    return f"{path}: {len(table.configs)} configurations, {len(table.schedules)} schedules"


def _configurations(arch: str) -> Iterator[str]:
    """A line for each row that a layer may use, with the file it comes from."""
    tables = [table for _, table in config.tables(arch, True)]
    configs = {key for table in tables for key in table.configs}
    schedules = {key for table in tables for key in table.schedules}
    sources = {}
    for kernel, itemsize, channels in sorted(configs, key=lambda key: (key.kernel, key.itemsize, key.channels or 0)):
        entry, origin = config.find_config(kernel, arch, itemsize, channels)
        which = "any C" if channels is None else f"C {channels}"
        sources.setdefault(origin, {})[entry.measured] = None
        yield f"  {kernel:16}{itemsize} bytes {which:>8}{entry.value!s:>12}  {origin}"
    for key in sorted(schedules):
        entry, origin = config.find_schedule(arch, *key)
        layer = f"{key.in_channels}→{key.channels} {'×'.join(map(str, key.kernel))}"
        sources.setdefault(origin, {})[entry.measured] = None
        yield f"  {layer:16}{key.itemsize} bytes {entry.value:>20}  {origin}"
    for origin, sentences in sources.items():
        yield f"{origin}, measured {'; '.join(sentences)}"


def _cases(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Case]:
    """The layers that are named or described by the arguments."""
    own = {name: getattr(options, name) for name in ("in_channels", "size", "kernel_size", "batch", "steps")}
    if options.channels is None:
        for name, value in own.items():
            if value is not None:
                parser.error(f"argument --{name.replace('_', '-')}: only with --channels")
        unknown = [name for name in options.cases if name not in CASES]
        if unknown:
            parser.error(f"argument case: invalid choice: {unknown[0]!r} (choose from {', '.join(CASES)})")
        return [CASES[name] for name in dict.fromkeys(options.cases or CASES)]
    if options.cases:
        parser.error("argument --channels: not allowed with named cases")
    height, width = own["size"] or (64, 64)
    return [
        Case(
            batch=own["batch"] or 8,
            steps=own["steps"] or 10,
            in_channels=own["in_channels"] or options.channels[0],
            channels=tuple(options.channels),
            kernel=own["kernel_size"] or 3,
            height=height,
            width=width,
        )
    ]


def has_triton() -> bool:
    return cache.triton_version() != "none"


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _odd(text: str) -> int:
    value = _count(text)
    if value % 2 == 0:
        raise argparse.ArgumentTypeError(f"expected an odd size, got {text!r}")
    return value


def _architecture(text: str) -> str:
    if not re.fullmatch(r"cpu|sm_[0-9]{2,3}|gfx[0-9a-f]{3,5}", text):
        raise argparse.ArgumentTypeError(f"expected an architecture, as sm_90, gfx942 or cpu, got {text!r}")
    return text


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})[x×]([1-9]\d{0,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected HxW, as 64x64, got {text!r}")
    return int(match[1]), int(match[2])
