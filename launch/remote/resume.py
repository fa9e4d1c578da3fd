#!/usr/bin/env python3
"""Starts again what ran on this node when it went down: `resume.py DIR`, by systemd after a boot. Python 3.6, Linux.

Each DIR/run/NAME that lived then is started, and a line printed for it. What was stopped on purpose, or had failed,
stays as it is; what still runs is left alone. Parts of an instance over several nodes make sense together only, and are
left to `llmfleet up`. Exit code 1: something could not be started. Uses supervise.py and ready.py beside it.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from typing import Any, Dict

HERE = os.path.dirname(os.path.abspath(__file__))
TOGETHER = ("ray-head", "ray-worker", "rank", "application")  # kinds
SPANNING = ("vllm_ray.py", "vllm_rank.py")  # engines' scripts


def resume(folder: str) -> int:
    sys.path.insert(0, HERE)
    supervise: Any = importlib.import_module("supervise")
    ready: Any = importlib.import_module("ready")
    failed, apart, deadline = 0, [], time.monotonic() + ready.PATIENCE_S
    run = os.path.join(folder, "run")
    for name in sorted(os.listdir(run)) if os.path.isdir(run) else []:
        rundir = os.path.join(run, name)
        spec, state = supervise.read_json(rundir, "spec.json"), supervise.read_json(rundir, "status.json").get("state")
        if os.path.exists(os.path.join(rundir, supervise.STOPPED)) or state not in supervise.LIVE_STATES:
            print("%s: left as it was, it did not run" % name, flush=True)
        elif spans_nodes(spec):
            apart.append(name)
        else:
            ready.wait(spec, deadline)
            answer = start(rundir)
            why = "" if answer.get("state") in supervise.LIVE_STATES else answer.get("last_error") or "it says nothing"
            failed += bool(why)
            print("%s: %s" % (name, "NOT STARTED: " + why if why else answer["state"]), flush=True)
    if apart:
        print("%s: left, they belong to what spans nodes: `llmfleet up` starts them" % ", ".join(apart), flush=True)
    return 1 if failed else 0


def spans_nodes(spec: Dict[str, Any]) -> bool:
    scripts = [os.path.basename(word) for word in spec.get("argv", [])[1:2]]
    return spec.get("kind") in TOGETHER or any(script in SPANNING for script in scripts)


def start(rundir: str) -> Dict[str, Any]:
    """The status that supervise.py answers with, which does nothing where it runs already."""
    argv = [sys.executable, os.path.join(HERE, "supervise.py"), "start", rundir]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        return dict(json.loads(done.stdout.decode()))
    except ValueError:
        return {"last_error": done.stderr.decode(errors="replace").strip()[-500:]}


if __name__ == "__main__":
    sys.exit(resume(os.path.realpath(sys.argv[1])))
