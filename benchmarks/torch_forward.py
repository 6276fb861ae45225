"""The torch executor against plain PyTorch on EfficientNet-Lite0: ``python -m benchmarks.torch_forward``.

Exits with 1 where a forward pass takes more than LIMIT times as long.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping

import click
import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from benchmarks.data import loader
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.graph.load import load_model

MODEL = "efficientnet_lite0"
LIMIT = 1.5
# Blocks of the network by stage: expansion, kernel, stride, repeats.
STAGES = ((1, 3, 1, 1), (6, 3, 2, 2), (6, 5, 2, 2), (6, 3, 2, 3), (6, 5, 1, 3), (6, 5, 2, 4), (6, 3, 1, 1))
Constants = Mapping[str, torch.Tensor]


def convolution(constants: Constants, name: str, stride: int = 1, activation: bool = True) -> nn.Sequential:
    """Convolution, BatchNorm and ReLU6 with the weights called ``name``; padded as TensorFlow pads at stride 2."""
    weight = constants[f"{name}.weight"]
    outputs, inputs, kernel = weight.shape[:3]
    groups = outputs if inputs == 1 else 1
    padding = kernel // 2 if stride == 1 else 0
    conv = nn.Conv2d(inputs * groups, outputs, kernel, stride, padding, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, eps=1e-3)
    parts = (("scale", norm.weight), ("bias", norm.bias), ("mean", norm.running_mean), ("var", norm.running_var))
    with torch.no_grad():
        conv.weight.copy_(weight)
        for part, own in parts:
            if own is not None:
                own.copy_(constants[f"{name}.bn.{part}"])
    total = kernel - stride
    pad = [nn.ZeroPad2d((total // 2, total - total // 2) * 2)] if stride > 1 else []
    return nn.Sequential(*pad, conv, norm, *([nn.ReLU6(inplace=True)] if activation else []))


class Block(nn.Module):
    """A mobile inverted bottleneck."""

    def __init__(self, constants: Constants, name: str, expansion: int, stride: int) -> None:
        super().__init__()
        layers = [convolution(constants, f"{name}_expand")] if expansion > 1 else []
        layers.append(convolution(constants, f"{name}_dw", stride))
        layers.append(convolution(constants, f"{name}_project", activation=False))
        self.layers = nn.Sequential(*layers)
        weights = constants[f"{name}_expand.weight" if expansion > 1 else f"{name}_dw.weight"]
        inputs = weights.shape[1] if expansion > 1 else weights.shape[0]
        self.skips = stride == 1 and inputs == constants[f"{name}_project.weight"].shape[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output, on top of its input where the sizes allow it."""
        found: torch.Tensor = self.layers(x)
        return found + x if self.skips else found


def plain_network(model: ir.Model) -> nn.Module:
    """EfficientNet-Lite0 in PyTorch's own modules, with the weights of ``model``."""
    constants = {
        name: torch.from_numpy(np.array(value.const_value.numpy()))
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    blocks, number = [], 0
    for expansion, _, stride, repeats in STAGES:
        for index in range(repeats):
            blocks.append(Block(constants, f"b{number}", expansion, stride if index == 0 else 1))
            number += 1
    last = nn.Linear(*constants["fc.weight"].shape[::-1])
    with torch.no_grad():
        last.weight.copy_(constants["fc.weight"])
        last.bias.copy_(constants["fc.bias"])
    stem, head = convolution(constants, "stem", 2), convolution(constants, "head")
    return nn.Sequential(stem, *blocks, head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()


def medians(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of two functions, called by turns so that what slows the machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds + 1):
        for function, found in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            if index:  # the first call allocates
                found.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


@click.command()
@click.option("--batch", default=8, show_default=True, help="Images at a time.")
@click.option("--threads", default=2, show_default=True, help="Threads of torch.")
@click.option("--rounds", default=15, show_default=True, help="Passes of each.")
def main(batch: int, threads: int, rounds: int) -> None:
    """Measure a forward pass of the torch executor and of plain PyTorch, without gradients."""
    torch.set_num_threads(threads)
    data = loader()
    feeds = data.evalset(MODEL, batch)[0]
    x = torch.from_numpy(feeds["input"])
    model = load_model(data.path(MODEL))
    executor, network = TorchExecutor(model), plain_network(model)
    with torch.no_grad():
        difference = float((executor({"input": x})["logits"] - network(x)).norm() / network(x).norm())
        if difference > 1e-5:
            raise click.ClickException(f"the two networks are not the same: they differ by {difference:.1e}")
        ours, plain = medians(lambda: executor({"input": x}), lambda: network(x), rounds)
    click.echo(f"{MODEL}, batch {batch}, {threads} threads, median of {rounds}: executor {ours * 1e3:.0f} ms")
    click.echo(f"plain PyTorch {plain * 1e3:.0f} ms, ratio {ours / plain:.2f} (limit {LIMIT})")
    sys.exit(ours / plain > LIMIT)


if __name__ == "__main__":
    main()
