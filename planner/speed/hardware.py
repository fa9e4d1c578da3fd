"""One instance's GPUs as rates: bytes, flops and collectives a second that engines really reach."""

from __future__ import annotations

from dataclasses import dataclass

from llmfleet.planner.catalog.types import Gpu
from llmfleet.planner.figures import EngineName
from llmfleet.planner.memory.settings import Version
from llmfleet.planner.memory.types import Shape

TERA = 1e12
GIGA = 1e9

# NCCL 2.21 on 8 A800 (400 GB/s NVLink): 256 MB over 4 GPUs in 2.894 ms, over 8 in 3.261: 0.70 to 0.77 of one direction.
LINK_EFFICIENCY = 0.72
# One small all-reduce with vLLM's own kernel over NVLink, with its launch.
LINK_LATENCY_S = 16e-6
# Without peer-to-peer a collective goes through host memory, in both directions and for every rank in turn. A small one
# takes 40 to 120 us in published runs of RTX 3090 and 4090; large ones move a fifth to a quarter of the lanes' rate.
PCIE_LATENCY_S = 70e-6
PCIE_EFFICIENCY = 0.24
# With it, ranks read one another's memory through the switch.
P2P_LATENCY_S = 35e-6
P2P_EFFICIENCY = 0.35
PCIE_LANE_GBS = {3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}  # GB/s of one lane, one direction
CPU_LATENCY_S = 50e-6
CPU_LINK_GBS = 10.0

# All constants below are fitted together, to the published runs that docs/validation.md lists; there is one of each for
# all GPUs and models. What differs by class of GPU stands in the catalogue.

# Kernels of one layer that are neither matrices nor attention to a long context, with the gaps between them.
LAYER_S = 22.5e-6
MOE_LAYER_S = 39e-6  # routing, sorting and gathering of an expert layer, on top
LATENT_LAYER_S = 36e-6  # the projections into and out of the latent
SPARSE_LAYER_S = 100e-6  # indexer and choice of sparse attention; one published run
QUANTIZING_LAYER_S = 8e-6  # activations are quantized before each matrix
AMD_LAYERS = 2.6  # times as long on AMD's cards

# The host's work of a step and of each sequence in it (scheduling, sampling, sending), by release: before the engine
# was rewritten, after it, and since it schedules while the GPU works.
REWRITTEN, ASYNCHRONOUS = (0, 8, 0), (0, 14, 0)
OLD_STEP_S, STEP_S, ASYNCHRONOUS_STEP_S = 6e-3, 1.4e-3, 0.34e-3
OLD_SEQUENCE_S, SEQUENCE_S, ASYNCHRONOUS_SEQUENCE_S = 60e-6, 30e-6, 15e-6

# Without CUDA graphs the host launches every kernel of a layer, and the GPU waits for it; one published run.
EAGER_LAYER_S = 0.4e-3

# Parts of what the class reaches on plain 16-bit matrices.
WEIGHT_ONLY_COMPUTE = 0.74  # weights that are widened before they are multiplied
AMD_WEIGHT_ONLY_READ = 0.45  # there are no kernels made for it
EXPERTS_COMPUTE = 0.5  # many small matrices
CACHE_READ = 0.8  # paged attention
ATTENTION_COMPUTE = 0.65

NIC_EFFICIENCY = 0.85  # TCP over Ethernet
HOP_LATENCY_S = 150e-6
DEFAULT_NIC_BITS_S = 10e9
LOCAL_HOP_S = 40e-6

# llama.cpp reads 4-bit weights at less than the memory's speed and has no tensor-core attention for large batches.
# Uncalibrated: published llama-bench runs of 7B Q4_0 models reach 0.6 to 0.8 of the bandwidth that vLLM reaches.
LLAMA_CPP_BANDWIDTH = 0.75
LLAMA_CPP_COMPUTE = 0.7
LLAMA_CPP_TENSOR_CORES = 0.4  # of what vLLM gets out of tensor cores: quantized matrices are widened in each product

# What a weight format computes in, where the GPU is new enough: otherwise its weights are widened to 16 bit first.
NATIVE = {
    "fp8": ("fp8", (8, 9)), "mxfp8": ("fp8", (10, 0)), "int8": ("int8", (7, 5)),
    "nvfp4": ("fp4", (10, 0)), "mxfp4": ("fp4", (10, 0)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hardware:
    """`tp` GPUs side by side; `pp` such groups in a row. Rates are of one GPU, after efficiency."""

    gpu: Gpu
    tp: int
    pp: int
    dtype: str
    bandwidth: float  # bytes/s
    compute: float  # factor on the peak of any format
    step_s: float  # host work per step
    sequence_s: float  # and for each sequence of it
    layers: float  # times as long as LAYER_S and the like
    reduce_latency_s: float
    reduce_bandwidth: float  # bytes/s that a rank moves during a collective
    hop_s: float
    hop_bandwidth: float

    def flops(self, form: str) -> float:
        """Flops/s of one GPU on weights of a format ("" is the dtype itself)."""
        part = 1.0 if not form or self.native(form) else WEIGHT_ONLY_COMPUTE
        return peak_tflops(self.gpu, form, self.dtype) * TERA * self.compute * part

    def flops_experts(self, form: str) -> float:
        return self.flops(form) * EXPERTS_COMPUTE

    @property
    def flops_attention(self) -> float:
        return peak_tflops(self.gpu, "", self.dtype) * TERA * self.compute * ATTENTION_COMPUTE

    def reading(self, form: str) -> float:
        """Bytes/s of one GPU on weights of a format."""
        slow = form and self.gpu.vendor == "amd" and not self.native(form)
        return self.bandwidth * (AMD_WEIGHT_ONLY_READ if slow else 1.0)

    @property
    def reading_cache(self) -> float:
        return self.bandwidth * CACHE_READ

    def native(self, form: str) -> bool:
        """Whether the GPU computes in a format as it is stored."""
        name, since = NATIVE.get(form, ("", (0, 0)))
        return name in self.gpu.tflops and (self.gpu.compute_capability or (99, 0)) >= since

    def all_reduce_s(self, size: float) -> float:
        return self.reduce_latency_s + 2 * (self.tp - 1) / self.tp * size / self.reduce_bandwidth

    def hops_s(self, size: float) -> float:
        """From the first pipeline stage to the last."""
        return (self.pp - 1) * (self.hop_s + size / self.hop_bandwidth)


def hardware_of(
    gpu: Gpu,
    shape: Shape,
    precision: str,
    *,
    link: str | None,
    nic_bits_s: float | None,
    engine: EngineName,
    version: Version | None = None,
) -> Hardware:
    """`link` overrides what the GPU usually has between its like; `nic_bits_s` None: the stages share a node."""
    latency, reduce = _collective(gpu, shape.tp, link)
    hop, hop_rate = (HOP_LATENCY_S, nic_bits_s / 8 * NIC_EFFICIENCY) if nic_bits_s else (LOCAL_HOP_S, _pcie(gpu))
    slow = engine == "llama.cpp"
    step_s, sequence_s = _host(version)
    return Hardware(
        gpu=gpu,
        tp=shape.tp,
        pp=shape.pp,
        dtype=compute_dtype(gpu, precision),
        bandwidth=gpu.bandwidth_gbs * GIGA * gpu.efficiency.bandwidth * (LLAMA_CPP_BANDWIDTH if slow else 1),
        compute=gpu.efficiency.compute * (_llamacpp_compute(gpu) if slow else 1),
        step_s=step_s + gpu.efficiency.step_overhead_ms / 1000,
        sequence_s=sequence_s,
        layers=AMD_LAYERS if gpu.vendor == "amd" else 1.0,
        reduce_latency_s=latency,
        reduce_bandwidth=reduce,
        hop_s=hop,
        hop_bandwidth=hop_rate,
    )


def peak_tflops(gpu: Gpu, form: str, dtype: str) -> float:
    native, since = NATIVE.get(form, ("", (0, 0)))
    if native in gpu.tflops and (gpu.compute_capability or (99, 0)) >= since:
        return gpu.tflops[native]
    wanted = (form if form in gpu.tflops else dtype, dtype, "bf16", "fp16", "fp32")
    return next((gpu.tflops[name] for name in wanted if name in gpu.tflops), 1.0)


def compute_dtype(gpu: Gpu, precision: str) -> str:
    """What the arithmetic runs in: the precision itself, or for stored formats the fastest that the GPU has."""
    if precision in gpu.tflops and precision in ("bf16", "fp16", "fp32"):
        return precision
    return max(("bf16", "fp16", "fp32"), key=lambda name: gpu.tflops.get(name, 0.0))


def _llamacpp_compute(gpu: Gpu) -> float:
    return LLAMA_CPP_TENSOR_CORES if (gpu.compute_capability or (0, 0)) >= (7, 0) else LLAMA_CPP_COMPUTE


def _host(version: Version | None) -> tuple[float, float]:
    if version is None or version >= ASYNCHRONOUS:
        return ASYNCHRONOUS_STEP_S, ASYNCHRONOUS_SEQUENCE_S
    return (STEP_S, SEQUENCE_S) if version >= REWRITTEN else (OLD_STEP_S, OLD_SEQUENCE_S)


def _collective(gpu: Gpu, tp: int, link: str | None) -> tuple[float, float]:
    if gpu.vendor == "cpu":
        return CPU_LATENCY_S, CPU_LINK_GBS * GIGA
    linked = gpu.link_gbs > 0 and tp <= gpu.link_group and link in (None, "nvlink")
    if linked:
        return LINK_LATENCY_S, gpu.link_gbs / 2 * GIGA * LINK_EFFICIENCY
    if gpu.p2p:
        return P2P_LATENCY_S, _pcie(gpu) * P2P_EFFICIENCY
    return PCIE_LATENCY_S, _pcie(gpu) * PCIE_EFFICIENCY


def _pcie(gpu: Gpu) -> float:
    """Bytes/s of 16 lanes in one direction."""
    return 16 * PCIE_LANE_GBS.get(gpu.pcie_gen, 1.969) * GIGA
