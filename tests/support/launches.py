"""Launches of the package's kernels where Triton compiles, with a driver that launches nothing. All of it runs in the
process of `compiling`."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction

from bench.fake_driver import FakeDriver, Launched, fake_driver, through_triton
from tests.support.problems import Problem, Shape, arguments, spec_of
from tritonlstm import Spec, ops
from tritonlstm.cells import BackwardStep, ForwardStep
from tritonlstm.cells import triton as cell
from tritonlstm.core.arguments import Arguments, Results
from tritonlstm.core.layout import Layout
from tritonlstm.engines import engine
from tritonlstm.launch import launcher
from tritonlstm.launch.config import use
from tritonlstm.launch.tables import Config
from tritonlstm.tuning.launches import VARIANTS, Launch, bind

KERNELS = ("gates_forward_kernel", "gates_backward_kernel", "parameter_grads_kernel")


@contextmanager
def counted() -> Iterator[Counter]:
    """How often each kernel goes through Triton's own launcher."""
    calls, run = Counter(), JITFunction.run

    def count(self: JITFunction, *args: object, **options: object) -> object:
        calls[self.__name__] += 1
        return run(self, *args, **options)

    JITFunction.run = count
    try:
        yield calls
    finally:
        JITFunction.run = run


def forget() -> None:
    """As in a process that has launched and compiled nothing."""
    launcher.forget()
    for name in KERNELS:
        getattr(cell, name).device_caches.clear()


def compiled() -> dict[str, int]:
    """How many variants of each kernel Triton has compiled or loaded, over all devices."""
    return {name: sum(len(caches[0]) for caches in getattr(cell, name).device_caches.values()) for name in KERNELS}


def one_layer(shape: Shape, dtype: torch.dtype, options: dict, times: int = 1) -> list[dict]:
    """For each of several runs of a layer, forward and backward: by kernel, its `launches`, those that went `through`
    Triton's launcher, and the variants `compiled` so far."""
    forget()
    runs = []
    with fake_driver() as fake:
        for _ in range(times):
            with counted() as through:
                _run(Problem.random(shape, dtype), options)
            launches = Counter(launched.name for launched in fake.launched)
            fake.launched.clear()
            runs.append({"launches": launches, "through": through, "compiled": compiled()})
    return runs


def _run(problem: Problem, options: dict) -> None:
    spec = spec_of(problem, **{"backend": "triton"} | options)
    tensors = arguments(problem)
    run = engine(tensors, Layout.of(tensors, problem.shape.steps, spec), spec)
    _, saved = run.forward(save=True)
    needs = Arguments(*(tensor is not None for tensor in tensors))
    run.backward(Results(**problem.cotangents), saved, needs)


def single_steps(times: int) -> tuple[Counter, Counter]:
    """What goes through Triton's launcher of the training steps of a cell whose parameters change: of the first, and of
    `times` others."""
    spec = Spec(backend="triton").encode()
    forget()
    with fake_driver():
        counts = []
        for steps in (1, times):
            with counted() as through:
                for _ in range(steps):
                    tensors = [
                        torch.randn(2, 4 * 8, 5, 4),
                        torch.randn(2, 8, 5, 4),
                        torch.randn(4 * 8),
                        torch.randn(3, 8, 1, 1),
                    ]
                    leaves = [tensor.requires_grad_() for tensor in tensors]
                    h, c = ops.gates(*leaves, spec)
                    torch.autograd.grad(h.sum() + c.sum(), leaves)
            counts.append(through)
    return tuple(counts)


def as_triton_launches(
    binds: list[Callable[[], Callable[[], None]]], changes: list[dict]
) -> list[tuple[list[Launched], Launched, int]]:
    """What each of `binds` binds under each change: three launches of ours, the first of which may have to compile, the
    same through Triton's launcher, and how many of ours went through that too.

    A change is of the driver (`device`, `stream`), of the kernels' configurations (`config`), or of the memory: `shift`
    moves the tensors that are made by so many elements.
    """
    forget()
    found = []
    with fake_driver() as fake:
        for bind in binds:
            plain = bind()
            for change in changes:
                fake.device, fake.stream = change.get("device", 0), change.get("stream", 0)
                config = Config(*change["config"]) if "config" in change else None
                with use({} if config is None else dict.fromkeys(VARIANTS, config)), _shifted(change.get("shift", 0)):
                    run = bind() if {"config", "shift"}.intersection(change) else plain
                    with counted() as through:
                        ours = [_launched(fake, run) for _ in range(3)]
                    with through_triton():
                        theirs = _launched(fake, _anew(run))
                    _anew(run)
                found.append((ours, theirs, sum(through.values())))
    return found


BATCH, SPATIAL, CHANNELS = 2, (3, 5), 8


def _rows(channels: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(BATCH, *SPATIAL, channels, dtype=dtype)


def one_step(
    dtype: torch.dtype,
    bias: torch.dtype | None,
    peephole: torch.dtype | None,
    c: torch.dtype = torch.float32,
    *,
    addend: bool = False,
    saves: bool = False,
) -> Callable[[], None]:
    """A forward launch with parameters and a state of these dtypes, with a second part of the pre-activations or
    without, and with gates that are saved or without."""
    layout, preact = Layout(1, BATCH, SPATIAL, 0, CHANNELS, multiple=1), _rows(4 * CHANNELS, dtype)
    parameters = [
        None if each is None else torch.empty(shape, dtype=each)
        for each, shape in ((bias, (4 * CHANNELS,)), (peephole, (3, 1, 1, CHANNELS)))
    ]
    owner = cell.TritonCell(layout, Spec(backend="triton"), preact, *parameters)
    step = ForwardStep(
        preact,
        torch.empty_like(preact) if addend else None,
        c_prev=_rows(CHANNELS, c),
        gates=torch.empty_like(preact) if saves else None,
        c=_rows(CHANNELS, c),
        h=_rows(CHANNELS, dtype),
        h_next=None,
    )
    return lambda: owner.forward(step)


def one_step_back(width: int) -> Callable[[], None]:
    """A backward launch with dH in rows of so many channels."""
    layout, gates = Layout(1, BATCH, SPATIAL, 0, CHANNELS, multiple=1), _rows(4 * CHANNELS)
    owner = cell.TritonCell(layout, Spec(backend="triton"), gates, None, None)
    states = [_rows(CHANNELS, torch.float32) for _ in range(3)]
    grad_h = _rows(width)[..., width - CHANNELS :]
    step = BackwardStep(gates, *states[:2], None, grad_h, grad_c=states[2], grad_preact=torch.empty_like(gates))
    return lambda: owner.backward(step)


def sums_of_parameters(*, bias: bool = True, peephole: bool = True, steps: int = 2) -> Callable[[], None]:
    """A launch of the reduction for the gradients of these, over some steps of a sequence of two."""
    layout = Layout(2, BATCH, SPATIAL, 0, CHANNELS, multiple=1)
    states = [_rows(CHANNELS, torch.float32).expand(steps, -1, -1, -1, -1).contiguous() for _ in range(2)]
    grad_preact = _rows(4 * CHANNELS).expand(steps, -1, -1, -1, -1).contiguous()
    owner = cell.TritonCell(layout, Spec(backend="triton"), grad_preact, None, torch.empty(3, 1, 1, CHANNELS))
    sums = owner.parameter_grads(states[0], bias=bias, peephole=peephole)
    return lambda: sums.add(grad_preact, *states)


def _launched(fake: FakeDriver, run: Callable[[], None]) -> Launched:
    fake.launched.clear()
    run()
    (launched,) = fake.launched
    return replace(launched, arguments=tuple(0 if each is None else each for each in launched.arguments))


def _anew(run: Callable[[], None]) -> Callable[[], None]:
    """The same launch by a launcher that has seen none."""
    bound = [each.cell_contents for each in run.__closure__]
    (owner,) = [each for each in bound if isinstance(each, (cell.TritonCell, cell.TritonParameterGrads))]
    for name, value in vars(owner).items():
        if isinstance(value, launcher.Launcher):
            setattr(owner, name, launcher.Launcher())
    return run


@contextmanager
def _shifted(elements: int) -> Iterator[None]:
    """Within it, torch.empty gives views that begin so many elements into their memory."""
    empty = torch.empty

    def shifted(shape: tuple[int, ...], **options: object) -> torch.Tensor:
        size = torch.Size(shape).numel()
        return empty(size + elements, **options)[elements:].view(shape)

    torch.empty = shifted
    try:
        yield
    finally:
        torch.empty = empty


def with_hooks(launch: Launch) -> tuple[list[str], list[str]]:
    """What hooks before and behind each launch see of three launches, the second and third of them."""
    before, behind = [], []
    enter, leave = (lambda data: before.append(data.get()["name"])), (lambda data: behind.append(data.get()["name"]))
    forget()
    with fake_driver():
        run = bind(launch, "cpu")
        run()
        knobs.runtime.launch_enter_hook.add(enter)
        knobs.runtime.launch_exit_hook.add(leave)
        try:
            run()
            run()
        finally:
            knobs.runtime.launch_enter_hook.remove(enter)
            knobs.runtime.launch_exit_hook.remove(leave)
        run()
    return before, behind


def through_triton_alone(launch: Launch, target: tuple | None = None, versions: tuple[str, ...] | None = None) -> int:
    """How many of three launches go through Triton's launcher, on another GPU, or as another version of Triton."""
    forget()
    before = launcher.VERSIONS
    launcher.VERSIONS = before if versions is None else versions
    try:
        with fake_driver() as fake, counted() as through:
            if target is not None:
                fake.target = GPUTarget(*target)
            run = bind(launch, "cpu")
            for _ in range(3):
                run()
    finally:
        launcher.VERSIONS = before
    return sum(through.values())
