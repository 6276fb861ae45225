"""Trains the three networks on scikit-learn's digits and writes ONNX files, data and cards beside this script.

``python -m models.train [NAME...]``; needs the ``train`` extra and about three minutes on two cores. Everything is
seeded: on one machine and one version of torch a second run writes the same weights.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from models.networks import SIDE, MobileNet, ResNet, VisionTransformer

HERE = Path(__file__).parent
INPUT, OUTPUT = "image", "logits"
SEED = 0
TEST_SAMPLES = 600
CALIBRATION_SAMPLES = 256
BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """How one network is made.

    Attributes:
        build: its architecture.
        about: a sentence for the card.
        epochs, rate: passes over the training set, peak learning rate of AdamW.
        dynamo: exported by torch.export (True) or by the TorchScript tracer, which keeps other traces in the graph.
        opset: of the ONNX file.
    """

    build: Callable[[], nn.Module]
    about: str
    epochs: int
    rate: float
    dynamo: bool
    opset: int


RECIPES = {
    "digits_resnet": Recipe(
        ResNet, "Residual CNN (16, 32, 64 channels); BatchNormalization is kept in the file.", 30, 3e-3, False, 17
    ),
    "digits_mobilenet": Recipe(
        MobileNet,
        "Inverted residuals with depthwise convolutions, HardSwish and squeeze-excite (MobileNetV3's block).",
        40,
        3e-3,
        False,
        17,
    ),
    "digits_vit": Recipe(
        VisionTransformer,
        "Vision transformer: 16 patches, width 48, 4 heads, 3 blocks; LayerNorm, Softmax, GELU.",
        90,
        2e-3,
        True,
        18,
    ),
}


@dataclass(frozen=True, eq=False)
class Split:
    """Images float32 [N, 1, 16, 16], zero mean and unit variance over the training set; labels int64 [N]."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def first(self, count: int) -> "Split":
        """The first ``count`` samples."""
        return Split(self.images[:count], self.labels[:count])

    def save(self, path: Path) -> None:
        """An npz as ``ptqc --data`` reads it: one array named like the model's input, and the labels."""
        np.savez_compressed(path, **{INPUT: self.images, "labels": self.labels})


def load_data() -> tuple[Split, Split, str]:
    """Training and test set: the 8x8 digits enlarged to 16x16, split by class with a fixed seed; and their units."""
    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.float32))[:, None] / 16
    images = nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    train, test, train_labels, test_labels = train_test_split(
        images.numpy(),
        digits.target.astype(np.int64),
        test_size=TEST_SAMPLES,
        stratify=digits.target,
        random_state=SEED,
    )
    mean, deviation = train.mean(), train.std()
    units = f"kind=image,mean={mean:.7g},std={deviation:.7g},scale=255"  # of pixels from 0 to 255, as ptqc reads it
    return Split((train - mean) / deviation, train_labels), Split((test - mean) / deviation, test_labels), units


def augment(images: Tensor) -> Tensor:
    """Random rotation, scale, shear and shift of each image; pixels from outside repeat the border."""
    count = len(images)
    jitter = torch.empty(count, 2, 2).uniform_(-0.15, 0.15) + torch.eye(2)
    shift = torch.empty(count, 2, 1).uniform_(-0.15, 0.15)
    grid = nn.functional.affine_grid(torch.cat([jitter, shift], 2), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def train(recipe: Recipe, data: Split) -> nn.Module:
    """The trained network in evaluation mode."""
    torch.manual_seed(SEED)
    network = recipe.build()
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    steps = recipe.epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    network.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(images))
        for indices in order[: len(order) // BATCH * BATCH].split(BATCH):
            logits = network(augment(images[indices]))
            loss = nn.functional.cross_entropy(logits, labels[indices], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def accuracy(network: nn.Module, data: Split) -> float:
    """Share of samples whose largest logit is the label's."""
    with torch.no_grad():
        predicted = network(torch.from_numpy(data.images)).argmax(1).numpy()
    return float((predicted == data.labels).mean())


def export(network: nn.Module, recipe: Recipe, units: str, path: Path) -> None:
    """Writes the network as ONNX with a free batch axis, unoptimized, so that BatchNormalization stays.

    The metadata says in which ``units`` its images come.
    """
    example = torch.zeros(2, 1, SIDE, SIDE)
    names = {"input_names": [INPUT], "output_names": [OUTPUT], "opset_version": recipe.opset}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        if recipe.dynamo:
            batch = {0: torch.export.Dim("batch")}
            torch.onnx.export(network, (example,), file, dynamo=True, dynamic_shapes=(batch,), optimize=True, **names)
        else:
            torch.onnx.export(
                network,
                (example,),
                file,
                dynamo=False,
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                **names,
            )
        model = strip(onnx.load(file))
    onnx.helper.set_model_props(model, {f"ptqc.input.{INPUT}": units})
    path.write_bytes(model.SerializeToString(deterministic=True))


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without stack traces and other notes of the exporter, which hold paths of the machine and grow the file."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for values in (model.graph.value_info, model.graph.input, model.graph.output, model.graph.initializer):
        for value in values:
            value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    onnx.checker.check_model(model, full_check=True)
    return model


CARD = """# {name}

{about}

| | |
| --- | --- |
| Accuracy | {accuracy:.2%} on the {test} images of `digits_test.npz` |
| Input | `{input}`: float32 [batch, 1, {side}, {side}], standardized |
| Output | `{output}`: float32 [batch, 10] |
| Size | {parameters:,} parameters, {size:,} bytes |
| Format | opset {opset}, exported by {exporter} of torch {torch} |
| Calibration data | `digits_calib.npz`: {calibration} training images with labels |

Trained for {epochs} epochs (AdamW, one cycle, label smoothing 0.05, random affine changes of the images), seed {seed},
on {train} images. Made by

    python -m models.train {name}

**Data.** *Optical Recognition of Handwritten Digits* (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
CC BY 4.0) as shipped in scikit-learn's `load_digits`: 1,797 images of 8x8 pixels and 17 grey levels, enlarged to
{side}x{side} (bilinear), split by class with seed {seed}.

**Licence.** The weights: Apache-2.0, as the rest of ptqc. The images: CC BY 4.0, changed as described.

**Use.** Examples and tests. The digits are easy and small; nothing about accuracy on other images follows from them.
"""


def write_card(name: str, network: nn.Module, training: Split, test: Split) -> None:
    """Writes ``NAME.md`` beside the model; the tests hold the model to its figures."""
    recipe = RECIPES[name]
    text = CARD.format(
        name=name,
        about=recipe.about,
        accuracy=accuracy(network, test),
        test=len(test.labels),
        input=INPUT,
        output=OUTPUT,
        side=SIDE,
        parameters=sum(p.numel() for p in network.parameters()),
        size=(HERE / f"{name}.onnx").stat().st_size,
        opset=recipe.opset,
        exporter="`torch.export` (`dynamo=True`)" if recipe.dynamo else "the TorchScript tracer (`dynamo=False`)",
        torch=torch.__version__.partition("+")[0],
        calibration=CALIBRATION_SAMPLES,
        epochs=recipe.epochs,
        seed=SEED,
        train=len(training.labels),
    )
    (HERE / f"{name}.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Trains the named networks, or all."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; all without names")
    names = parser.parse_args().names or list(RECIPES)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    training, test, units = load_data()
    training.first(CALIBRATION_SAMPLES).save(HERE / "digits_calib.npz")
    test.save(HERE / "digits_test.npz")
    for name in names:
        network = train(RECIPES[name], training)
        export(network, RECIPES[name], units, HERE / f"{name}.onnx")
        write_card(name, network, training, test)
        print(f"{name}: {accuracy(network, test):.2%} on {len(test.labels)} test images")


if __name__ == "__main__":
    main()
