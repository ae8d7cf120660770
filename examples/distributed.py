"""Training on several processes with DDP or FSDP2.

    torchrun --nproc-per-node 2 examples/distributed.py --strategy fsdp --bf16

"ddp" replicates the model on every process; "fsdp" (FSDP2) shards the parameters of each layer. The backend is NCCL on
GPUs, and gloo elsewhere. Each process trains on its share of one batch, so the losses equal those of a single process.
"""

import argparse
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from tritonlstm import ConvLSTM2dCell
from tritonlstm.models import EncoderForecaster

FRAMES_IN, FRAMES_OUT, BATCH, SIZE = 4, 3, 4, 12


@dataclass
class Options:
    strategy: str = "ddp"
    compile: str | None = None
    layer_backend: str = "auto"
    bf16: bool = False
    checkpoint: bool = False
    recompute: bool = False
    input_kernel: int = 3
    iterations: int = 16


def frames() -> Tensor:
    """A batch (T, B, 1, H, W) of bars that move to the right, identical on every process."""
    bars = torch.rand(BATCH, 1, 1, SIZE, generator=torch.Generator().manual_seed(0)).round()
    image = bars.expand(-1, -1, SIZE, -1)
    return torch.stack([image.roll(t, dims=-1) for t in range(FRAMES_IN + FRAMES_OUT)])


def distribute(model: nn.Module, options: Options, device: torch.device) -> nn.Module:
    if options.strategy == "ddp":
        model = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    elif options.strategy == "fsdp":
        half = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if options.bf16 else {}
        # The policy of the model already casts the frames. A cell must not cast its inputs: c stays in float32.
        for module in model.modules():
            if isinstance(module, ConvLSTM2dCell):
                fully_shard(module, mp_policy=MixedPrecisionPolicy(**half, cast_forward_inputs=False))
        fully_shard(model, mp_policy=MixedPrecisionPolicy(**half))
    if options.compile:
        model.compile(backend=options.compile)
    return model


def train(options: Options, device: torch.device) -> list[float]:
    """The loss of each iteration, averaged over all processes."""
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(0)
    memory = "recompute" if options.recompute else "save"
    layers = {"input_kernel_size": options.input_kernel, "memory": memory, "backend": options.layer_backend}
    model = EncoderForecaster(1, [8, 8], 3, **layers)
    model = distribute(model.to(device), options, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=options.bf16 and options.strategy != "fsdp")
    part = frames().chunk(processes, 1)[rank].to(device)
    losses = []
    for _ in range(options.iterations):
        with autocast:
            if options.checkpoint:
                logits = checkpoint(model, part[:FRAMES_IN], FRAMES_OUT, use_reentrant=False)
            else:
                logits = model(part[:FRAMES_IN], FRAMES_OUT)
        loss = F.binary_cross_entropy_with_logits(logits.float(), part[FRAMES_IN:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = loss.detach()
        if processes > 1:
            dist.all_reduce(loss)
        losses.append(loss.item() / processes)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", choices=["none", "ddp", "fsdp"], default=Options.strategy)
    parser.add_argument(
        "--compile",
        nargs="?",
        const="inductor",
        metavar="BACKEND",
        help="torch.compile the distributed model (with %(const)s)",
    )
    parser.add_argument("--layer-backend", default=Options.layer_backend, help="of the layers' gates (%(default)s)")
    parser.add_argument("--bf16", action="store_true", help="bfloat16, with parameters in float32")
    parser.add_argument("--checkpoint", action="store_true", help="recompute activations (torch.utils.checkpoint)")
    parser.add_argument("--recompute", action="store_true", help='memory="recompute" in the layers')
    parser.add_argument("--input-kernel", type=int, default=Options.input_kernel, help="odd size (%(default)s)")
    parser.add_argument("--iterations", type=int, default=Options.iterations)
    options = Options(**vars(parser.parse_args()))

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if options.strategy != "none":
        dist.init_process_group("nccl" if cuda else "gloo")
    losses = train(options, device)
    if options.strategy == "none" or dist.get_rank() == 0:
        print("losses", *(f"{loss:.4f}" for loss in losses))
    if options.strategy != "none":
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
