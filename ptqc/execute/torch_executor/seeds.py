"""Random numbers of a node: the same on every run, and none of torch's global state."""

import struct
import zlib

import torch

from ptqc.execute.torch_executor.registry import Call


def generator(call: Call, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by the node's ``seed``, or by its name where it has none."""
    seed = call.get("seed")
    number = zlib.crc32(call.name.encode()) if seed is None else struct.unpack("<I", struct.pack("<f", seed))[0]
    return torch.Generator(device).manual_seed(int(number))
