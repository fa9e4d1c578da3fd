"""A CPU worker that runs the model once at start, as vLLM's own does only when it compiles.

That run allocates the buffers in which a later pipeline stage receives its input. Without it, in eager mode, the first
request fails on `assert self.intermediate_tensors is not None`.
"""

from vllm.v1.worker.cpu_worker import CPUWorker


class PipelineWorker(CPUWorker):
    def determine_available_memory(self) -> int:
        self.model_runner.profile_run()
        return super().determine_available_memory()
