"""vLLM's CPU platform, as something that Ray can count and whose ranks may sit on several hosts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm.platforms.cpu import CpuPlatform

if TYPE_CHECKING:  # vllm.config itself asks for the platform while it loads
    from vllm.config import VllmConfig


class RayCpuPlatform(CpuPlatform):
    ray_device_key = "GPU"

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        return "ray_cpu_double.communicator.NetworkCommunicator"

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        super().check_and_update_config(vllm_config)
        parallel = vllm_config.parallel_config
        if parallel.pipeline_parallel_size > 1:
            parallel.worker_cls = "ray_cpu_double.worker.PipelineWorker"
        if parallel.distributed_executor_backend != "ray":
            # Forked as on GPUs, not spawned: an engine's processes share what the first one imported, and several
            # engines start on a small machine in the time and memory of one. (Ray's connections do not outlive a fork.)
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
