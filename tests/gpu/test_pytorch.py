"""What CUDA changes of PyTorch's features: graphs, compilation, mixed precision, streams, export, processes."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from tests.support.layers import CIN, conv_lstm, frames, gradients, in_threads, step_by_step
from tritonlstm import ConvLSTM2d

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("repeatable")]

ROOT = Path(__file__).parents[2]
HALF = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
each_dtype = pytest.mark.parametrize("dtype", HALF.values(), ids=HALF.keys())
each_memory = pytest.mark.parametrize("memory", ["save", "recompute"])


def leaves(results: object) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(results)


def assert_same(got: object, expected: object) -> None:
    for one, other in zip(leaves(got), leaves(expected), strict=True):
        assert torch.equal(one, other)


def larger(**options: object) -> ConvLSTM2d:
    return ConvLSTM2d(CIN, [16, 24], 3, device="cuda", **options)


class TestGraphs:
    @each_memory
    @each_dtype
    def test_replay_gives_the_bits_of_eager(self, dtype: torch.dtype, memory: str):
        layer, static = larger(dtype=dtype, memory=memory), frames(6).to("cuda", dtype)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.no_grad():
            layer(static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph):
            captured = layer(static)
        for _ in range(3):
            static.normal_()
            with torch.no_grad():
                expected = layer(static)
            graph.replay()
            assert_same(captured, expected)

    @each_memory
    @each_dtype
    def test_make_graphed_callables_trains_with_the_bits_of_eager(self, dtype: torch.dtype, memory: str):
        layer = larger(dtype=dtype, memory=memory)
        eager = copy.deepcopy(layer)
        graphed = torch.cuda.make_graphed_callables(layer, (frames(6).to("cuda", dtype),))
        optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (layer, eager)]
        for _ in range(4):
            input, results = frames(6).to("cuda", dtype), []
            for run, optimizer in zip((graphed, eager), optimizers, strict=True):
                optimizer.zero_grad(set_to_none=True)
                output, state = run(input)
                (output.float().square().mean() + state[0][1].float().mean()).backward()
                results.append([output.clone(), *(parameter.grad.clone() for parameter in run.parameters())])
                optimizer.step()
            assert_same(*results)


class TestSteps:
    @each_dtype
    def test_a_graph_captures_a_step(self, dtype: torch.dtype):
        layer = larger(dtype=dtype)
        frame = frames(1)[0].to("cuda", dtype)
        with torch.no_grad():
            _, state = layer.step(frame)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                layer.step(frame, state)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = layer.step(frame, state)
            for _ in range(3):
                frame.normal_()
                expected = layer.step(frame, state)
                graph.replay()
                assert_same(captured, expected)

    @each_dtype
    def test_steps_agree_with_the_sequence(self, dtype: torch.dtype):
        layer, input = larger(dtype=dtype), frames(6).to("cuda", dtype)
        tolerance = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
        expected, _ = layer(input)
        got, _ = step_by_step(layer, input)
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
        # Of a mean they would be smaller than what float16 resolves.
        grads, wanted = (gradients(layer, each.float().square().sum()) for each in (got, expected))
        for name in grads:
            largest = wanted[name].abs().max().item()
            torch.testing.assert_close(grads[name], wanted[name], rtol=0, atol=4 * tolerance * largest)

    @pytest.mark.usefixtures("fresh_compiler")
    def test_a_compiled_loop_of_steps_equals_eager(self):
        layer, input = larger(), frames(4).cuda()

        def run(input: Tensor) -> Tensor:
            return step_by_step(layer, input)[0]

        got, expected = torch.compile(run, fullgraph=True)(input), run(input)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
        grads = (gradients(layer, each.square().sum()) for each in (got, expected))
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("fresh_compiler")
@each_memory
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
def test_compiled_equals_eager(mode: str, memory: str, record_property):
    layer, input = larger(memory=memory), frames(6).cuda()
    compiled = torch.compile(layer, fullgraph=True, mode=mode)
    for _ in range(4):  # cudagraph trees warm up and record before they replay
        torch.compiler.cudagraph_mark_step_begin()
        input.normal_()
        got = compiled(input)
        got = [tensor.clone() for tensor in (got[0], *gradients(layer, got[0].square().sum()).values())]
        output, _ = layer(input)
        expected = [output, *gradients(layer, output.square().sum()).values()]
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
    skips = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
    record_property("cudagraph_skips", skips)
    assert skips == 0


def test_neither_pass_waits_for_the_device():
    layer, input = larger(), frames(6).cuda().requires_grad_()
    layer(input)[0].sum().backward()
    state = layer(input)[1]
    torch.cuda.set_sync_debug_mode("error")
    try:
        output, state = layer(input, state)
        layer.step(input[0], state)
        output.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


class TestMixedPrecision:
    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
    def test_autocast(self, half: torch.dtype):
        layer, input = larger(), frames(6).cuda()
        with torch.autocast("cuda", half):
            output, state = layer(input)
            output, state = layer(input, state)
        assert output.dtype == half
        assert [(h.dtype, c.dtype) for h, c in state] == [(half, torch.float32)] * 2
        output.float().square().sum().backward()
        assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())

    def test_grad_scaler_recovers_from_an_overflow(self, record_property):
        layer, input = larger(), frames(6).cuda()
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0**30)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16):
                loss = (layer(input)[0] - 0.4).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        record_property("final_scale", scaler.get_scale())
        assert scaler.get_scale() < 2.0**30
        assert losses[-1] < 0.5 * losses[0]


class TestStreamsAndThreads:
    def test_another_stream(self):
        layer, input = larger(), frames(6).cuda()
        expected = gradients(layer, layer(input)[0].square().sum())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            got = gradients(layer, layer(input)[0].square().sum())
        stream.synchronize()
        assert_same(got, expected)

    def test_many_threads_with_a_stream_each(self):
        layer, input = larger(), frames(6).cuda()
        expected = gradients(layer, layer(input)[0].square().sum())
        torch.cuda.synchronize()

        def work() -> None:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(10):
                    assert_same(gradients(layer, layer(input)[0].square().sum()), expected)

        in_threads(4, work)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
    def test_a_device_that_is_not_the_current_one(self):
        layer, input = larger(), frames(6).cuda()
        expected, moved = layer(input)[0], copy.deepcopy(layer).to("cuda:1")
        torch.testing.assert_close(moved(input.to("cuda:1"))[0].to("cuda:0"), expected)


def test_memory_does_not_grow_and_inference_keeps_less_than_training(record_property):
    layer, input = larger(), frames(16, 4, 64, 64).cuda()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)

    def iterate(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            layer(input)[0].square().mean().backward()
            optimizer.step()

    def peak(run) -> int:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before

    iterate(5)
    before = torch.cuda.memory_allocated()
    iterate(300)
    assert torch.cuda.memory_allocated() == before
    with torch.no_grad():
        inference = peak(lambda: layer(input))
    training = peak(lambda: iterate(1))
    record_property("peak_bytes", {"inference": inference, "training": training})
    assert inference < 0.5 * training


def test_gradients_of_each_sample():
    layer, input = conv_lstm(device="cuda"), frames().cuda()
    named = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(parameters: dict, input: Tensor) -> Tensor:
        return functional_call(layer, parameters, (input,))[0].square().sum()

    together = vmap(grad(loss), in_dims=(None, 1))(named, input.unsqueeze(2))
    for index in range(input.shape[1]):
        for name, expected in grad(loss)(named, input[:, index : index + 1]).items():
            torch.testing.assert_close(together[name][index], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_an_aot_inductor_package(tmp_path: Path):
    layer, input = larger().requires_grad_(False), frames(6).cuda()
    dynamic = {"input": {0: torch.export.Dim("T"), 1: torch.export.Dim("B")}}
    program = torch.export.export(layer, (input,), dynamic_shapes=dynamic)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layer.pt2"))
    other = frames(9, 5).cuda()
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(other), layer(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [["ddp"], ["fsdp"], ["fsdp", "--bf16", "--compile"]], ids=" ".join)
def test_one_process_on_nccl_has_the_losses_of_none(options: list[str]):
    def losses(*command: str) -> list[float]:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        (line,) = (line for line in result.stdout.splitlines() if line.startswith("losses "))
        return [float(loss) for loss in line.split()[1:]]

    program = ["examples/distributed.py", "--iterations", "6", "--strategy"]
    distributed = losses(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", *program, *options
    )
    alone = losses(sys.executable, *program, "none", *options[1:])
    assert distributed == pytest.approx(alone, abs=2e-3)
