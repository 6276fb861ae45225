"""The ways to distil data, with the settings that were found to work."""

from dataclasses import dataclass, replace
from typing import Literal

from ptqc.core.errors import OptionError

Statistic = Literal["batch", "sample", "none"]


class NotDistillable(OptionError):
    """The network keeps nothing that data could be distilled from, or no gradient reaches its inputs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One way to distil.

    Attributes:
        method: its name.
        statistic: BatchNormalization's statistics are matched by the whole set, by every sample for itself, or not.
        relative: differences are taken in units of the statistics' spread.
        input_term: every sample is also asked for mean 0 and deviation 1 in each channel.
        class_weight: of the cross-entropy to random classes.
        variation_weight: of the total variation of images.
        procedural_start: begin with procedural samples, else with noise.
        samples, steps: for a small network; :func:`ptqc.calibrate.distillation.distill.fitted` lowers them for larger.
        rate: of Adam, in units of the input's deviation.
        patience: the rate falls to a tenth after so many steps without progress; 0: it falls along a cosine.
        clamped: the legal range holds after every step.
    """

    method: str
    statistic: Statistic = "batch"
    relative: bool = True
    input_term: bool = False
    class_weight: float = 0.1
    variation_weight: float = 0.1
    procedural_start: bool = True
    samples: int = 64
    steps: int = 80
    rate: float = 0.1
    patience: int = 0
    clamped: bool = True


# Trials on ResNet-20, ResNet-56, EfficientNet-Lite0: as good as 256 real images within 1 dB.
BATCH_NORM = Settings("batch-norm")

# For estimates and sensitivities: the class term saturates the softmax, the procedural start is that of the data which
# is to be judged.
BATCH_NORM_NOISE = replace(
    BATCH_NORM,
    method="batch-norm-noise",
    class_weight=0.0,
    variation_weight=0.0,
    procedural_start=False,
    samples=32,
    steps=60,
)

# Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework" (arXiv 2001.00281), as in its published code:
# statistics by sample, unnormalised. For comparison: see docs/benchmarks.md.
SAMPLE_NORM = Settings(
    "sample-norm",
    statistic="sample",
    relative=False,
    samples=32,
    input_term=True,
    class_weight=0.0,
    variation_weight=0.0,
    procedural_start=False,
    steps=500,
    rate=0.5,
    patience=100,
    clamped=False,
)

# For networks without statistics: procedural samples on which the network becomes sure of some class.
CLASS_CONFIDENCE = Settings(
    "class", statistic="none", class_weight=1.0, variation_weight=0.05, samples=16, steps=30, rate=0.05
)

METHODS = {one.method: one for one in (BATCH_NORM, BATCH_NORM_NOISE, SAMPLE_NORM, CLASS_CONFIDENCE)}

AUTO, PROCEDURAL = "auto", "none"
WAYS = (AUTO, *METHODS, PROCEDURAL)  # what ``--distill`` takes
