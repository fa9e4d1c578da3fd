"""How weights lie in memory: 16-bit numbers, or integers and small floats with their scales."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
DTYPES = {
    "float32": "fp32", "float": "fp32", "fp32": "fp32",
    "bfloat16": "bf16", "bf16": "bf16",
    "float16": "fp16", "half": "fp16", "fp16": "fp16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Format:
    """A quantized matrix of `rows` outputs × `columns` inputs.

    `group`: inputs that share one scale (0: the whole row). `tile`: outputs that share it (0: all of them).
    """

    name: str
    bits: float
    scale_bytes: float = 0
    zero_bytes: float = 0  # of one zero point, where the engine keeps it
    group: int = 0
    tile: int = 1

    def tensors(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Bytes of the weights, of their scales and of their zero points, which are tensors of their own."""
        across = ceil(columns / self.group) if self.group else 1
        down = ceil(rows / self.tile) if self.tile else 1
        scales = across * down
        return ceil(rows * columns * self.bits / 8), ceil(scales * self.scale_bytes), ceil(scales * self.zero_bytes)

    def bytes(self, rows: int, columns: int) -> int:
        """Bytes of the matrix with its scales and zero points."""
        return sum(self.tensors(rows, columns))

    @property
    def bits_per_weight(self) -> float:
        """With scales and zero points, for a large matrix."""
        extra = 8 * (self.scale_bytes + self.zero_bytes)
        return self.bits + (extra / (self.group * max(self.tile, 1)) if self.group else 0)


def fp8_tensor() -> Format:
    return Format("fp8", 8, scale_bytes=4, tile=0)


def fp8_channel() -> Format:
    return Format("fp8", 8, scale_bytes=4)


def fp8_block(rows: int = 128, columns: int = 128) -> Format:
    return Format("fp8", 8, scale_bytes=4, group=columns, tile=rows)


def int8_channel() -> Format:
    return Format("int8", 8, scale_bytes=4)


def integer(name: str, bits: int, group: int, *, zeros: bool = False) -> Format:
    """Weight-only integers with 16-bit scales; zero points are as wide as the weights."""
    return Format(name, bits, scale_bytes=2, zero_bytes=bits / 8 if zeros else 0, group=group)


def nvfp4() -> Format:
    return Format("nvfp4", 4, scale_bytes=1, group=16)


def mxfp4() -> Format:
    return Format("mxfp4", 4, scale_bytes=1, group=32)


def mxfp8() -> Format:
    return Format("mxfp8", 8, scale_bytes=1, group=32)


def nf4() -> Format:
    """bitsandbytes: blocks of 64 with a 32-bit absolute maximum."""
    return Format("bitsandbytes", 4, scale_bytes=4, group=64)
