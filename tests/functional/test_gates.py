"""The gates of one step as a function, and its operators: numbers, registration, and which derivatives they refuse."""

import pytest
import torch
from torch import Tensor

from tests.support.covering import Row, describe, pairwise
from tests.support.layouts import flip_storage
from tests.support.tolerances import assert_within, budget
from tritonlstm import Spec, functional, reference
from tritonlstm.core.dtypes import cell_dtype
from tritonlstm.core.spec import CHOICES

NAMES = ("preact", "c", "bias", "peephole")
PATHS = ("aten", "triton")
SPATIAL = {"vectors": (), "1d": (5,), "2d": (3, 4), "3d": (2, 3, 2), "one pixel": (1, 1)}
PEEPHOLES = ("none", "channel", "full")
FORMATS = ("contiguous", "channels last", "strided")
OPTIONS = {name: CHOICES[name] for name in ("activation", "recurrent_activation", "output_activation")}
OPTIONS["cell_clip"] = (None, 0.5)


def in_format(tensor: Tensor, format: str) -> Tensor:
    if format == "channels last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    return flip_storage(tensor) if format == "strided" else tensor


def draw(row: Row, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random arguments of `lstm_gates` by name, those that a row says."""
    generator, spatial = torch.Generator().manual_seed(0), SPATIAL[row.get("spatial", "2d")]
    batch, channels = row.get("batch", 2), row.get("channels", 5)

    def normal(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    format = row.get("format", "contiguous")
    arguments = {
        "preact": in_format(normal(batch, 4 * channels, *spatial), format),
        "c": in_format(normal(batch, channels, *spatial, dtype=cell_dtype(dtype)), format),
    }
    if row.get("bias", True):
        arguments["bias"] = normal(4 * channels)
    peephole = row.get("peephole", "channel")
    if peephole != "none":
        arguments["peephole"] = normal(3, channels, *(spatial if peephole == "full" else (1,) * len(spatial)))
    return arguments


def by_reference(preact: Tensor, c: Tensor, bias: Tensor | None = None, peephole: Tensor | None = None, spec=None):
    if bias is not None:
        preact = preact + bias.reshape(-1, *[1] * (preact.dim() - 2))
    wide = preact.to(c.dtype), c, None if peephole is None else peephole.to(c.dtype)
    h, c, _ = reference.gates(*wide, spec=spec)
    return h.to(preact.dtype), c


def solve(run, arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Results and gradients by name, with fixed cotangents."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in arguments.items()}
    results = dict(zip(("h", "c_next"), run(**leaves)))
    cotangents = [torch.linspace(-1, 1, each.numel(), dtype=each.dtype).view(each.shape) for each in results.values()]
    grads = torch.autograd.grad(list(results.values()), list(leaves.values()), cotangents)
    return results | {f"grad of {name}": grad for name, grad in zip(leaves, grads)}


def fits(row: Row) -> bool:
    return (row.get("path"), row.get("dtype")) != ("triton", torch.float64)


ROWS = pairwise(
    {
        "spatial": SPATIAL,
        "peephole": PEEPHOLES,
        "bias": (True, False),
        "batch": (0, 1, 3),
        "channels": (1, 5, 64),
        "format": FORMATS,
        "dtype": (torch.float64, torch.float32, torch.bfloat16, torch.float16),
        "path": PATHS,
    },
    fits,
)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("row", ROWS, ids=describe)
def test_the_operators_agree_with_the_oracle(row: Row):
    dtype, spec = row["dtype"], Spec()
    given = draw(row, dtype)
    got = solve(lambda **leaves: functional.lstm_gates(**leaves, backend=row["path"]), given)
    plain = solve(lambda **leaves: by_reference(**leaves, spec=spec), given)
    wide = {name: tensor.double() for name, tensor in given.items()}
    oracle = solve(lambda **leaves: by_reference(**leaves, spec=spec), wide)
    for name in oracle:
        assert_within(name, got[name], oracle[name], budget(plain[name], oracle[name], dtype))
        assert got[name].dtype == plain[name].dtype, name


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", ["contiguous", "channels last"])
def test_results_have_the_memory_format_of_the_preactivations(path: str, format: str):
    given = draw({"format": format})
    is_rows = path == "triton" or format == "channels last"
    wanted = torch.channels_last if is_rows else torch.contiguous_format
    for name, tensor in solve(lambda **leaves: functional.lstm_gates(**leaves, backend=path), given).items():
        if name not in ("grad of bias", "grad of peephole"):
            assert tensor.is_contiguous(memory_format=wanted), name


def operator_arguments(given: dict[str, Tensor], path: str) -> tuple:
    return (*(given.get(name) for name in NAMES), Spec(backend=path).encode())


def backward_arguments(given: dict[str, Tensor], path: str, needs: tuple[bool, ...], absent: str = "") -> tuple:
    preact, c, bias, peephole, spec = operator_arguments({k: v.detach() for k, v in given.items()}, path)
    h, c_next, gates = torch.ops.tritonlstm.gates_training(preact, c, bias, peephole, spec)
    grad_h, grad_c = torch.randn_like(h), torch.randn_like(c_next)
    grads = (None if absent == "h" else grad_h, None if absent == "c" else grad_c)
    return (*grads, c, bias, peephole, c_next, gates, spec, list(needs))


OPERATOR_ROWS = pairwise(
    {
        "operator": ("gates_inference", "gates_training", "gates_backward"),
        "spatial": ("vectors", "2d"),
        "peephole": PEEPHOLES,
        "bias": (True, False),
        "format": FORMATS,
        "path": PATHS,
        **{f"{name} learns": (True, False) for name in NAMES},
        "absent": ("", "h", "c"),
    }
)


@pytest.mark.parametrize("row", OPERATOR_ROWS, ids=describe)
def test_opcheck(row: Row):
    given = draw(row)
    learns = [row[f"{name} learns"] and name in given for name in NAMES]
    if row["operator"] == "gates_backward":
        args = backward_arguments(given, row["path"], learns, row["absent"])
    else:
        given = {name: tensor.requires_grad_(learns[NAMES.index(name)]) for name, tensor in given.items()}
        args = operator_arguments(given, row["path"])
    torch.library.opcheck(getattr(torch.ops.tritonlstm, row["operator"]).default, args)


@pytest.mark.parametrize("path", PATHS)
def test_no_result_shares_memory_with_another_tensor(path: str):
    given = draw({})
    calls = {
        "gates_inference": operator_arguments(given, path),
        "gates_training": operator_arguments(given, path),
        "gates_backward": backward_arguments(given, path, (True,) * 4),
    }
    for name, args in calls.items():
        memory = [arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor)]
        results = getattr(torch.ops.tritonlstm, name)(*args)
        own = [result.untyped_storage().data_ptr() for result in results]
        assert len(set(own)) == len(own)
        assert not set(own) & set(memory)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_a_second_derivative_is_refused_and_never_silently_zero(path: str, name: str):
    given = draw({})
    leaf = given[name].requires_grad_()
    h, _ = functional.lstm_gates(**given, backend=path)
    (grad,) = torch.autograd.grad(h.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match='backend="torch"'):
        (grad.square().sum() + leaf.sum()).backward()


def test_plain_operations_are_differentiable_twice():
    given = {name: tensor.requires_grad_() for name, tensor in draw({}, torch.float64).items()}
    run = lambda *tensors: functional.lstm_gates(*tensors[:2], bias=tensors[2], peephole=tensors[3], backend="torch")  # noqa: E731
    assert torch.autograd.gradgradcheck(run, tuple(given.values()))


@pytest.mark.parametrize("path", PATHS)
def test_forward_mode_is_refused_and_never_silently_zero(path: str):
    given = draw({})
    with pytest.raises(RuntimeError, match='backend="torch"'):
        torch.func.jvp(
            lambda c: functional.lstm_gates(given["preact"], c, backend=path)[0], (given["c"],), (given["c"],)
        )


@pytest.mark.parametrize("path", PATHS)
def test_vmap_and_gradients_of_samples(path: str):
    given = draw({"batch": 3})
    others = {name: given[name] for name in ("bias", "peephole")}

    def loss(peephole: Tensor, preact: Tensor, c: Tensor) -> Tensor:
        h, c = functional.lstm_gates(preact[None], c[None], bias=others["bias"], peephole=peephole, backend=path)
        return h.square().sum() + c.sum()

    got = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(others["peephole"], given["preact"], given["c"])
    for index in range(3):
        leaf = others["peephole"].detach().requires_grad_()
        (wanted,) = torch.autograd.grad(loss(leaf, given["preact"][index], given["c"][index]), leaf)
        torch.testing.assert_close(got[index], wanted)


@pytest.mark.parametrize("options", pairwise(OPTIONS), ids=describe)
def test_a_convolution_of_ones_own_makes_a_layer(options: Row):
    """lstm_gates after a convolution gives the same as the layer's cell."""
    from tritonlstm import ConvLSTM2dCell

    cell = ConvLSTM2dCell(2, 3, 3, **options)
    x, h, c = torch.randn(2, 2, 5, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    preact = torch.nn.functional.conv2d(torch.cat([x, h], 1), cell.weight, padding=1)
    got = functional.lstm_gates(preact, c, bias=cell.bias, peephole=cell.peephole, **options)
    torch.testing.assert_close(tuple(got), tuple(cell(x, (h, c))))


OF_A_BOUND = {"recurrent_activation": "hard_sigmoid", "cell_clip": 0.75}


@pytest.mark.parametrize("path", (*PATHS, "inductor", "torch"))
def test_c_at_its_bound_has_no_gradient_and_nan_passes(path: str):
    """Whether it was beyond, or has stayed there: f = 1 and i = 0 keep c, whose gradient is 1 elsewhere."""
    c = torch.tensor([[1.5, 0.75, 0.5, -0.5, -0.75, -1.5, float("nan"), float("inf")]], requires_grad=True)
    closed, open = torch.full_like(c, -9.0), torch.full_like(c, 9.0)
    preact = torch.cat([closed, open, torch.zeros_like(c), closed], 1)
    _, new = functional.lstm_gates(preact.detach(), c, backend=path, **OF_A_BOUND)
    (grad,) = torch.autograd.grad(new.sum(), c)
    assert new.detach().nan_to_num(9)[0].tolist() == [0.75, 0.75, 0.5, -0.5, -0.75, -0.75, 9, 0.75]
    assert grad[0, ~c[0].isnan()].tolist() == [0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("path", PATHS)
def test_c_at_its_bound_has_no_gradient_where_rounded_gates_would_lead_below_it(
    path: str, memory: str, dtype: torch.dtype
):
    """f = σ(5) keeps 0.9933 of c = 1, and i ∘ g adds 0.007: in bfloat16 f is 0.9922."""
    gates = torch.tensor([-4.95, 5.0, 9.0, 0.0]).repeat_interleave(8).to(dtype).expand(1, 2, 32).clone()
    c = torch.ones(2, 8, requires_grad=True)
    gates.requires_grad_()
    _, (_, new) = functional.peephole_lstm(
        None,
        (torch.zeros(2, 8, dtype=dtype), c),
        torch.zeros(32, 8, dtype=dtype),
        input_preact=gates,
        cell_clip=1.0,
        backend=path,
        memory=memory,
    )
    assert (new == 1).all()
    for grad in torch.autograd.grad(new.sum(), [gates, c]):
        assert not grad.any()


@pytest.mark.parametrize("path", PATHS)
def test_what_an_operator_keeps_for_the_backward_pass(path: str):
    """The gates, once, and c before and after: not the pre-activations."""
    given = {name: tensor.requires_grad_() for name, tensor in draw({"channels": 8}).items()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        functional.lstm_gates(**given, backend=path)
    state, parameters = given["c"].numel(), given["bias"].numel() + given["peephole"].numel()
    assert sum(tensor.numel() for tensor in kept) == 4 * state + 2 * state + parameters
