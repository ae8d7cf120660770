"""LSTMState: a named tuple to everything of PyTorch's, and the orders in which a stack's state may be written."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

import tritonlstm
from tritonlstm import ConvLSTM2d, ConvLSTM2dCell, LSTMState, PeepholeLSTM, PeepholeLSTMCell, functional

T, B, CIN, C, SIZE = 3, 2, 2, 4, (5, 4)


@pytest.fixture
def layer() -> ConvLSTM2d:
    return ConvLSTM2d(CIN, [C, C], 3)


@pytest.fixture
def frames() -> Tensor:
    return torch.randn(T, B, CIN, *SIZE)


def is_named(state: object) -> bool:
    return isinstance(state, tuple) and all(type(pair) is LSTMState for pair in state)


def assert_same(one: object, other: object) -> None:
    leaves, others = pytree.tree_leaves(one), pytree.tree_leaves(other)
    assert len(leaves) == len(others) > 0
    assert all(torch.equal(each, counterpart) for each, counterpart in zip(leaves, others))


class TestIsReturned:
    def test_by_layers_cells_and_functions(self, layer: ConvLSTM2d, frames: Tensor):
        assert is_named(layer(frames)[1])
        assert is_named(layer(frames[:, 0])[1])
        assert is_named(layer.step(frames[0])[1])
        assert is_named(layer.step(frames[0, 0])[1])
        assert is_named((layer.layers[0](frames[0]), layer.layers[0](frames[0, 0])))
        vectors = PeepholeLSTM(CIN, C)
        assert is_named(vectors(frames[..., 0, 0])[1])
        assert type(PeepholeLSTMCell(CIN, C)(frames[0, :, :, 0, 0])) is LSTMState
        weight = torch.randn(4 * C, CIN + C, 3, 3)
        assert type(functional.lstm_gates(torch.randn(B, 4 * C), torch.randn(B, C))) is LSTMState
        for backend in ("auto", "torch"):
            assert type(functional.conv_lstm(frames, None, weight, backend=backend)[1]) is LSTMState
        assert type(functional.peephole_lstm(frames[..., 0, 0], None, weight[..., 0, 0])[1]) is LSTMState

    def test_it_is_a_tuple_with_names(self, frames: Tensor):
        state = ConvLSTM2dCell(CIN, C, 3)(frames[0])
        h, c = state
        assert state.h is h is state[0]
        assert state.c is c is state[1]
        assert isinstance(state, tuple)


class TestInPyTorch:
    def test_it_is_taken_apart_and_put_together(self, layer: ConvLSTM2d, frames: Tensor):
        _, state = layer(frames)
        detached = pytree.tree_map(torch.Tensor.detach, state)
        assert is_named(detached)
        assert_same(detached, state)
        spec = pytree.tree_structure(state)
        assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec

    @pytest.mark.parametrize("safe", [False, True], ids=["pickle", "weights_only"])
    def test_it_is_saved_and_loaded(self, layer: ConvLSTM2d, frames: Tensor, safe: bool):
        _, state = layer(frames)
        state = pytree.tree_map(torch.Tensor.detach, state)
        if safe:
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            loaded = torch.load(file, weights_only=True)
        else:
            loaded = pickle.loads(pickle.dumps(state))
        assert is_named(loaded)
        assert_same(loaded, state)
        assert is_named(copy.deepcopy(state))

    def test_its_name_in_files_is_the_public_one(self):
        assert f"{LSTMState.__module__}.{LSTMState.__qualname__}" == "tritonlstm.LSTMState"
        assert tritonlstm.LSTMState is LSTMState

    def test_compiled_in_one_graph(self, fresh_compiler, layer: ConvLSTM2d, frames: Tensor):
        def loop(frames: Tensor) -> object:
            state = None
            for part in frames.split(1):
                output, state = layer(part, state)
                state = [LSTMState(state_of.h * 1, state_of.c) for state_of in state]
            return output, state[-1].h, layer(frames, state)[1]

        compiled = torch.compile(loop, fullgraph=True, backend="aot_eager")
        got, expected = compiled(frames), loop(frames)
        assert is_named(got[2])
        torch.testing.assert_close(pytree.tree_leaves(got), pytree.tree_leaves(expected))

    @pytest.mark.parametrize("strict", [False, True])
    @pytest.mark.parametrize("batched", [True, False])
    @pytest.mark.parametrize("kind", [LSTMState, lambda h, c: (h, c)], ids=["named", "plain"])
    def test_an_exported_program_returns_the_structure_it_takes(self, layer, frames, kind, batched: bool, strict: bool):
        frames = frames if batched else frames[:, 0]
        _, state = layer(frames)
        state = tuple(kind(h.detach(), c.detach()) for h, c in state)
        module = torch.export.export(layer, (frames, state), strict=strict).module()
        for _ in range(2):
            expected = layer(frames, state)
            output, state = module(frames, state)
            assert_same((output, state), expected)
        assert [type(pair) for pair in state] == [type(kind(0, 0))] * 2

    def test_a_program_without_a_state_needs_no_type_of_ours(self, layer: ConvLSTM2d, frames: Tensor):
        class Whole(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer, self.cell = layer, ConvLSTM2dCell(C, 2, 3)

            def forward(self, frames: Tensor) -> object:
                output, state = self.layer(frames)
                one = functional.conv_lstm(output, None, self.cell.weight)
                return output, state, self.cell(output[-1]), self.layer.step(frames[0])[1], one

        module = Whole()
        program = torch.export.export(module, (frames,))
        assert "LSTMState" not in pytree.treespec_dumps(program.call_spec.out_spec)
        assert_same(program.module()(frames), module(frames))
        assert type(module(frames)[2]) is LSTMState

    def test_vmap_and_grad(self, layer: ConvLSTM2d, frames: Tensor):
        named = {name: each.detach() for name, each in layer.named_parameters()}
        _, state = layer(frames)
        state = pytree.tree_map(torch.Tensor.detach, state)

        def run(frames: Tensor, state: object) -> object:
            return functional_call(layer, named, (frames.unsqueeze(1), pytree.tree_map(lambda x: x[None], state)))[1]

        states = vmap(run, in_dims=(1, 0))(frames, state)
        assert is_named(states)
        torch.testing.assert_close(
            pytree.tree_map(lambda x: x.squeeze(1), states), layer(frames, state)[1], rtol=1e-5, atol=1e-6
        )
        gradient = grad(lambda state: layer(frames, state)[0].square().sum())(state)
        assert is_named(gradient)
        assert all(each.abs().sum() > 0 for each in pytree.tree_leaves(gradient))

    def test_checkpointed(self, layer: ConvLSTM2d, frames: Tensor):
        _, state = checkpoint(layer, frames, None, use_reentrant=False)
        _, state = checkpoint(layer, frames, state, use_reentrant=False)
        assert is_named(state)
        sum(pair.c.sum() for pair in state).backward()
        assert layer.layers[0].weight.grad.abs().sum() > 0

    def test_data_parallel_scatters_and_gathers_it(self, monkeypatch, layer: ConvLSTM2d, frames: Tensor):
        """PyTorch's own walk through the structure; on a CPU, the copies at its leaves are replaced."""
        from torch.nn.parallel import scatter_gather

        monkeypatch.setattr(scatter_gather.Scatter, "apply", lambda gpus, sizes, dim, x: x.chunk(len(gpus), dim))
        monkeypatch.setattr(scatter_gather.Gather, "apply", lambda device, dim, *parts: torch.cat(parts, dim))
        _, state = layer(frames)
        parts = scatter_gather.scatter(state, [0, 1])
        assert [is_named(part) for part in parts] == [True, True]
        results = [layer(frames[:, index : index + 1], part)[1] for index, part in enumerate(parts)]
        gathered = scatter_gather.gather(results, "cpu")
        assert is_named(gathered)
        torch.testing.assert_close(gathered, layer(frames, state)[1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(nn.DataParallel(layer)(frames, state), layer(frames, state))

    def test_hooks_see_it_and_may_replace_it_by_a_plain_tuple(self, layer: ConvLSTM2d, frames: Tensor):
        seen = []
        layer.layers[0].register_forward_hook(lambda module, args, result: seen.append(result[1]))
        layer.layers[1].register_forward_hook(lambda module, args, result: (result[0], tuple(result[1])))
        _, state = layer(frames)
        assert type(seen[0]) is LSTMState
        assert type(state[1]) is tuple
        layer(frames, state)


WRITTEN = {
    "what is returned": lambda state: state,
    "detached in a comprehension": lambda state: [(h.detach(), c.detach()) for h, c in state],
    "as a tuple": lambda state: tuple((h.detach(), c.detach()) for h, c in state),
    "named in a list": lambda state: [LSTMState(h, c) for h, c in state],
    "from stacked tensors": lambda state: list(zip(*(torch.stack(each) for each in zip(*state)))),
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN.keys())
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_pairs_by_layer_are_accepted(layers: int, write: Callable):
    layer, frames = ConvLSTM2d(CIN, C, 3, layers), torch.randn(2 * T, B, CIN, *SIZE)
    whole = layer(frames)
    first, state = layer(frames[:T])
    second, state = layer(frames[T:], write(state))
    assert_same((torch.cat([first, second]), state), whole)


@pytest.mark.parametrize(
    "build",
    [
        lambda: (ConvLSTM2d(CIN, C, 3, 1), torch.float32),
        lambda: (ConvLSTM2d(CIN, C, 3, 3), torch.float32),
        lambda: (ConvLSTM2d(CIN, [C, 3], 3), torch.float32),
        lambda: (ConvLSTM2d(CIN, [C, C], 3, dtype=torch.bfloat16), torch.bfloat16),
    ],
    ids=["one layer", "three layers", "two widths", "two dtypes"],
)
def test_lists_as_pairs_are_accepted_where_they_have_one_meaning(build: Callable):
    layer, dtype = build()
    frames = torch.randn(T, B, CIN, *SIZE, dtype=dtype)
    _, state = layer(frames)
    assert_same(layer(frames, [[h, c] for h, c in state]), layer(frames, state))


class TestTheOrderOfNNLSTM:
    """All h and then all c."""

    @pytest.mark.parametrize("outer", [tuple, list])
    @pytest.mark.parametrize("make", [lambda: ConvLSTM2d(CIN, [C, C], 3), lambda: PeepholeLSTM(CIN, [C, C])])
    def test_lists_with_two_meanings_are_refused_with_both(self, make: Callable, outer: type):
        layer = make()
        frames = torch.randn(T, B, CIN, *SIZE) if isinstance(layer, ConvLSTM2d) else torch.randn(T, B, CIN)
        _, state = layer(frames)
        hs, cs = zip(*state)
        for ambiguous in (outer([list(hs), list(cs)]), outer([list(pair) for pair in state])):
            with pytest.raises(ValueError, match=r"^state: .*\[\[h0, c0\], \[h1, c1\]\] or nn.LSTM's \[\[h0, h1\]"):
                layer(frames, ambiguous)
            with pytest.raises(ValueError, match=r"^state: "):
                layer.step(frames[0], ambiguous)

    @pytest.mark.parametrize("inner", [tuple, list])
    @pytest.mark.parametrize(
        "make",
        [
            lambda: (ConvLSTM2d(CIN, [C, 3], 3), torch.float32),
            lambda: (ConvLSTM2d(CIN, C, 3, 3), torch.float32),
            lambda: (ConvLSTM2d(CIN, C, 3, 1), torch.float32),
            lambda: (ConvLSTM2d(CIN, C, 3, 2, dtype=torch.bfloat16), torch.bfloat16),
        ],
        ids=["two widths", "three layers", "one layer", "two dtypes"],
    )
    def test_it_is_refused_by_name_where_it_can_be_told(self, make: Callable, inner: type):
        layer, dtype = make()
        frames = torch.randn(T, B, CIN, *SIZE, dtype=dtype)
        _, state = layer(frames)
        with pytest.raises(TypeError, match=r"^state: expected one pair .*nn.LSTM's order.*list\(zip\(h, c\)\)"):
            layer(frames, tuple(inner(each) for each in zip(*state)))

    @pytest.mark.parametrize("layers", [1, 2, 3])
    def test_two_tensors_are_refused_with_the_conversion_which_works(self, layers: int):
        layer, x = PeepholeLSTM(CIN, C, layers), torch.randn(T, B, CIN)
        _, (h_n, c_n) = nn.LSTM(CIN, C, layers)(x)
        with pytest.raises(TypeError, match=r"^state: .*got two tensors.*list\(zip\(h_n, c_n\)\) converts"):
            layer(x, (h_n, c_n))
        layer(x, list(zip(h_n, c_n)))

    def test_the_state_of_one_layer_without_its_list_is_refused_with_what_to_write(self, frames: Tensor):
        layer = ConvLSTM2d(CIN, C, 3)
        _, (state,) = layer(frames)
        with pytest.raises(TypeError, match=r"^state: .*the state of one layer is \[\(h, c\)\]"):
            layer(frames, state)
        layer(frames, [state])


class TestWhoIsBlamed:
    """With a state, an input that does not fit the parameters is named, not the state that does."""

    @pytest.mark.parametrize(
        "change",
        [Tensor.byte, Tensor.double, Tensor.half, lambda x: x.to("meta"), Tensor.to_sparse],
        ids=["byte", "double", "half", "device", "sparse"],
    )
    @pytest.mark.parametrize("call", ["layer", "step", "cell", "cell over a sequence"])
    def test_a_wrong_input(self, layer: ConvLSTM2d, frames: Tensor, change: Callable, call: str):
        _, state = layer(frames)
        calls = {
            "layer": lambda: layer(change(frames), state),
            "step": lambda: layer.step(change(frames[0]), state),
            "cell": lambda: layer.layers[0](change(frames[0]), state[0]),
            "cell over a sequence": lambda: layer.layers[0](change(frames), state[0], T),
        }
        with pytest.raises((TypeError, ValueError), match="^frame: " if call == "step" else "^input: "):
            calls[call]()

    def test_a_wrong_state(self, layer: ConvLSTM2d, frames: Tensor):
        _, state = layer(frames)
        for change in (Tensor.double, lambda x: x.to("meta"), Tensor.to_sparse):
            for index in (0, 1):
                wrong = [(h, c) for h, c in state]
                wrong[index] = (change(state[index].h), state[index].c)
                with pytest.raises((TypeError, ValueError), match=rf"^state\[{index}\]\[0\]"):
                    layer(frames, wrong)

    def test_a_layer_whose_parameters_were_replaced(self, layer: ConvLSTM2d, frames: Tensor):
        layer.layers[1].weight = nn.Parameter(torch.zeros(4 * C, C + C + 1, 3, 3))
        with pytest.raises(ValueError, match=r"^layers\[1\].weight: .*\(16, 8, …\).*\(16, 9, 3, 3\)"):
            layer(frames)

    def test_a_state_beside_other_parameters_without_an_input(self):
        layer = ConvLSTM2d(0, [C, C], 3)
        state = [(torch.zeros(B, C, *SIZE).double(), torch.zeros(B, C, *SIZE).double()) for _ in range(2)]
        with pytest.raises(TypeError, match=r"^state\[0\]\[0\] \(h\): expected torch.float32, got torch.float64"):
            layer(None, state, steps=2)

    def test_an_error_of_a_users_hook_stays_as_it_is(self, layer: ConvLSTM2d, frames: Tensor):
        def hook(module: nn.Module, args: tuple) -> None:
            raise ValueError("weight: mine")

        layer.layers[1].register_forward_pre_hook(hook)
        with pytest.raises(ValueError, match=r"^weight: mine$"):
            layer(frames)
