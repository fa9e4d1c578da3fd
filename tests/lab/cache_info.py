"""What vLLM says of its KV cache with each of several models; runs in the lab's engine environment:

    python cache_info.py '{"FOLDER": {"dtype": "bfloat16", …}, …}'    a line of JSON for each folder, in turn

vLLM is loaded once and each model starts in a fork of that: loading takes far longer than starting.
"""

import json
import os
import sys
import traceback

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process

from vllm import LLM
from vllm.model_executor.models import registry

MARK = "CACHE "


def main(asked: dict[str, dict[str, object]]) -> None:
    # It looks at a model's class in a process of its own, so as not to touch CUDA in this one.
    registry._run_in_subprocess = lambda look: look()
    for folder, options in asked.items():
        child = os.fork()
        if child == 0:
            os._exit(start(folder, options))
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"vLLM did not start with {folder}")


def start(folder: str, options: dict[str, object]) -> int:
    try:
        engine = LLM(model=folder, load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, **options)
        told = engine.llm_engine.vllm_config.cache_config.metrics_info()
        print(MARK + json.dumps({"folder": folder, **told}), flush=True)  # noqa: T201
    except BaseException:  # the fork must not go on as its parent
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
