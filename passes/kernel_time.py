"""A model of the time that onnxruntime's integer kernels take, for rewrites that trade channels against speed.

Fitted to onnxruntime 1.31 on an AVX512-VNNI CPU, one thread: chains of equal convolutions with 4 to 64 channels on
8x8 to 56x56 pixels, and first layers on 224x224 images. What decides is which of two kernels runs: the fast one
needs input channels in fours and output channels in fours and at least 16, and works in blocks of 16 outputs;
depthwise convolutions need channels in sixteens. Nanoseconds per output pixel, measured and modelled:

==================  ====  ====  ====  ====  ====  ====  ====
channels               6     8    12    16    24    30    32
3x3 measured          34    31    36    21    42    81    52
3x3 modelled          24    26    34    20    46    96    60
1x1 measured          15    11    14     6     9    27    11
1x1 modelled          12    13    15     4    10    28    11
depthwise measured    60    21    48    16    30    79    21
depthwise modelled    60    20    45    16    31    79    22
==================  ====  ====  ====  ====  ====  ====  ====
"""


def ceil_to(number: int, step: int) -> int:
    """The least multiple of ``step`` that is not below ``number``."""
    return -(-number // step) * step


def dense_time(inputs: int, outputs: int, taps: int) -> float:
    """Nanoseconds for one output pixel of a convolution without groups; ``taps`` is the size of its window."""
    fours, block = ceil_to(inputs, 4), ceil_to(max(outputs, 16), 16)
    gather = 0.05 * fours * taps if taps > 1 else 0.0
    fast = block * (fours * taps / 236 + 0.2) + gather
    if inputs % 4 == 0 and outputs % 4 == 0 and outputs >= 16:
        return fast
    return fast + 6 + 0.3 * outputs + 0.08 * inputs * taps


def depthwise_time(channels: int, taps: int) -> float:
    """Nanoseconds for one output pixel of a depthwise convolution."""
    if channels % 16 == 0:
        nine = 10 + 0.36 * channels
    elif channels % 8 == 0:
        nine = 15 + 0.66 * channels
    else:
        nine = (35 if channels % 4 == 0 else 55) + 0.8 * channels
    return nine * taps / 9


# Nanoseconds for one element.
ELEMENTWISE_TIME = 0.27  # QLinearAdd, QLinearMul, QLinearSigmoid, QLinearLeakyRelu
POOL_TIME = 0.1
PAD_TIME = 0.1  # Pad on the codes of an image, and what a fourth channel adds to its change of layout

LAUNCH_TIME = 4000.0  # nanoseconds of one more node, however small
