"""Two processes on gloo train as one does, by the very code of examples/distributed.py."""

import functools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard

from examples.distributed import Options, train
from tritonlstm import ConvLSTM2dCell

ROOT = Path(__file__).parents[2]
PROCESSES = 2

ONE_PROCESS = Options(strategy="none")
# Inductor takes seconds for the loops of a model, and more for the gates: for one of the two, and without gates.
CASES = {
    "ddp": Options("ddp"),
    "ddp, compiled": Options("ddp", compile="aot_eager", layer_backend="aten"),
    "ddp, activation checkpointing": Options("ddp", checkpoint=True),
    "ddp, bf16": Options("ddp", bf16=True),
    "fsdp": Options("fsdp"),
    "fsdp, activation checkpointing": Options("fsdp", checkpoint=True),
    "fsdp, bf16": Options("fsdp", bf16=True),
    "fsdp, bf16, compiled": Options("fsdp", bf16=True, compile="inductor", layer_backend="aten"),
    "ddp, recompute, input kernel": Options("ddp", recompute=True, input_kernel=5),
    "fsdp, recompute, input kernel": Options("fsdp", recompute=True, input_kernel=5),
}


def _run_all(rank: int, folder: Path) -> None:
    """In each process: every case, one after another; the first process writes their losses down."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES)
    for name, options in CASES.items():
        torch._dynamo.reset()
        losses = train(options, torch.device("cpu"))
        if rank == 0:
            (folder / f"{name}.json").write_text(json.dumps(losses))
    bias = _bias_made_on_the_meta_device()
    if rank == 0:
        (folder / "bias.json").write_text(json.dumps(bias))
    dist.destroy_process_group()


def _bias_made_on_the_meta_device() -> list[float]:
    """The whole bias of a sharded cell that got its memory, and its first values, after it was sharded."""
    cell = ConvLSTM2dCell(2, 3, 3, forget_bias=0.5, device="meta")
    fully_shard(cell)
    cell.to_empty(device="cpu")
    cell.reset_parameters()
    return cell.bias.full_tensor().tolist()


@functools.cache
def _losses_of_one_process(**options: object) -> torch.Tensor:
    return torch.tensor(train(replace(ONE_PROCESS, **options), torch.device("cpu")))


def _check(case: str, losses: torch.Tensor) -> None:
    alone = _losses_of_one_process(input_kernel=CASES[case].input_kernel)
    assert alone[-1] < 0.8 * alone[0], "the model learns"
    if CASES[case].bf16:
        half = _losses_of_one_process(bf16=True)
        # As near to float32's curve as one process in bfloat16 is, but for the order of roundings.
        assert (losses - alone).abs().max() <= 3 * (half - alone).abs().max(), case
    else:
        torch.testing.assert_close(losses, alone, rtol=1e-4, atol=0, msg=lambda text: f"{case}: {text}")


# One test of all cases: they share two processes, which take long to start.
def test_two_processes_have_the_loss_curve_of_one_and_the_first_values_of_a_sharded_cell(tmp_path: Path):
    mp.start_processes(_run_all, (tmp_path,), nprocs=PROCESSES, start_method="spawn")
    for case in CASES:
        _check(case, torch.tensor(json.loads((tmp_path / f"{case}.json").read_text())))
    bias = json.loads((tmp_path / "bias.json").read_text())
    assert bias == [0.0] * 3 + [0.5] * 3 + [0.0] * 6


def test_the_torchrun_recipe():
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "examples/distributed.py"]
    result = subprocess.run([*command, "--iterations", "3"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    losses = re.fullmatch(r"losses(( \d\.\d{4}){3})\n", result.stdout)[1].split()
    expected = train(replace(ONE_PROCESS, iterations=3), torch.device("cpu"))
    assert [float(loss) for loss in losses] == pytest.approx(expected, abs=2e-4)
