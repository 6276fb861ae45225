"""Fourier transforms and windows."""

from collections.abc import Callable
from math import log, pi
from typing import Any

import torch

from ptqc.execute.torch_executor.numbers import integers, normalized, type_named
from ptqc.execute.torch_executor.registry import Call, operator

Tensor = torch.Tensor
_rfft: Callable[..., Tensor] = torch.fft.rfft
_irfft: Callable[..., Tensor] = torch.fft.irfft
_fft: Callable[..., Tensor] = torch.fft.fft
_ifft: Callable[..., Tensor] = torch.fft.ifft


@operator("DFT", since=20)
def dft(call: Call, x: Tensor, length: Any = None, axis: Any = None) -> Tensor:
    """x: [..., 1] for real signals, [..., 2] for complex ones."""
    return _dft(call, x, length, -2 if axis is None else integers(axis)[0])


@operator("DFT", since=17)
def dft_17(call: Call, x: Tensor, length: Any = None) -> Tensor:
    """With the axis as an attribute."""
    return _dft(call, x, length, call.get("axis", 1))


def _dft(call: Call, x: Tensor, length: Any, axis: int) -> Tensor:
    axis = normalized(axis, x.dim())
    size = None if length is None else integers(length)[0]
    half, signal = bool(call.get("onesided", 0)), _numbers(x)
    if call.get("inverse", 0):
        if half:
            return _irfft(signal, size, axis).unsqueeze(-1).to(x.dtype)
        return torch.view_as_real(_ifft(signal, size, axis)).to(x.dtype)
    return torch.view_as_real(_transformed(signal, size, axis, half)).to(x.dtype)


def _numbers(x: Tensor) -> Tensor:
    """Real or complex numbers, of a type that torch can transform."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


def _transformed(signal: Tensor, size: int | None, axis: int, half: bool) -> Tensor:
    if half and not signal.is_complex():
        return _rfft(signal, size, axis)
    found = _fft(signal, size, axis)
    return found.narrow(axis, 0, found.shape[axis] // 2 + 1) if half else found


@operator("STFT")
def stft(call: Call, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
    """x: [batch, samples, 1 or 2]; gives [batch, frames, frequencies, 2]."""
    signal = _numbers(x)
    if length is not None:
        size = integers(length)[0]
    else:
        size = signal.shape[1] if window is None else window.shape[0]
    frames = signal.unfold(1, size, integers(step)[0])
    frames = frames if window is None else frames * window.to(signal.real.dtype)
    return torch.view_as_real(_transformed(frames, None, 2, bool(call.get("onesided", 1)))).to(x.dtype)


def _window(call: Call, size: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function`` of an angle that goes from 0 to 2 pi, over ``size`` places."""
    count = integers(size)[0]
    period = count if call.get("periodic", 1) else count - 1
    angles = torch.arange(count, dtype=torch.float64, device=size.device) * (2 * pi) / period
    return function(angles).to(type_named(call, "output_datatype", torch.float32))


@operator("HannWindow")
def hann_window(call: Call, size: Tensor) -> Tensor:
    """sin² of half the angle."""
    return _window(call, size, lambda angles: torch.sin(angles / 2) ** 2)


@operator("HammingWindow")
def hamming_window(call: Call, size: Tensor) -> Tensor:
    """With the coefficients 25/46 and 21/46."""
    return _window(call, size, lambda angles: 25 / 46 - 21 / 46 * torch.cos(angles))


@operator("BlackmanWindow")
def blackman_window(call: Call, size: Tensor) -> Tensor:
    """With the coefficients 0.42, 0.5 and 0.08."""
    return _window(call, size, lambda angles: 0.42 - 0.5 * torch.cos(angles) + 0.08 * torch.cos(2 * angles))


@operator("MelWeightMatrix")
def mel_weight_matrix(call: Call, bands: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """[frequencies, bands]: triangles that overlap, even on the mel scale."""
    (count,), (size,) = integers(bands), integers(length)
    first, last = (2595 * torch.log10(1 + edge.reshape(()).to(torch.float64) / 700) for edge in (low, high))
    mels = first + torch.arange(count + 2, device=bands.device) * (last - first) / (count + 2)
    hertz = 700 * torch.expm1(mels / 2595 * log(10))
    bins = ((size + 1) * hertz / rate.reshape(())).floor()
    place = torch.arange(size // 2 + 1, dtype=torch.float64, device=bands.device)[:, None]
    left, center, right = bins[:-2], bins[1:-1], bins[2:]
    rising = torch.where(center == left, 1.0, (place - left) / (center - left))
    falling = (right - place) / (right - center)
    weights = torch.where((place >= left) & (place <= center), rising, 0.0)
    weights = torch.where((place >= center) & (place < right), falling, weights)
    return weights.to(type_named(call, "output_datatype", torch.float32))
