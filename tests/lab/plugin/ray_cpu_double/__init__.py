"""A test double, not for use: vLLM refuses Ray on its CPU platform, and the lab has no other hardware.

`VLLM_PLUGINS=ray_cpu_double` chooses it; Ray nodes then say `--num-gpus=1` and mean a share of their CPU.
"""


def platform() -> str:
    """What vLLM's plugin loader asks for: the platform class by its full name."""
    return "ray_cpu_double.platform.RayCpuPlatform"
