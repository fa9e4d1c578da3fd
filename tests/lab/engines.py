"""What the lab's hosts serve with: vLLM and Ray for CPU, llama.cpp, Envoy, four small models.

Built once, kept under .cache/lab/. The environment's folder is named by a hash of what goes into it: a change of
requirements.txt or of the plugin builds another one. Hosts see the folder read-only at the same path.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.hosts import Host

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "lab"
REQUIREMENTS = HERE / "requirements.txt"
PLUGIN = HERE / "plugin"
MAKE_MODELS = HERE / "make_models.py"
KEEP = 2  # environments; each takes about 4 GB

# What every process of an engine on a lab host needs in its environment.
ENGINE_ENV: Mapping[str, str] = {
    "VLLM_PLUGINS": "ray_cpu_double",  # the test double that lets vLLM run over Ray without a GPU
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_CACHE_ROOT": "/var/cache/vllm",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class EnginesUnavailableError(Exception):
    """The environment cannot be built here; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class EngineEnv:
    """Paths are the same on this machine and on the hosts."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv/bin/python"

    @property
    def envoy(self) -> Path:
        return self.folder / "venv/bin/envoy"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def chat(self) -> Path:
        return self.models / "chat"

    @property
    def embed(self) -> Path:
        return self.models / "embed"

    @property
    def rerank(self) -> Path:
        return self.models / "rerank"

    @property
    def story(self) -> Path:
        return self.models / "story.gguf"

    def equip(self, hosts: Iterable[Host]) -> None:
        """Gives hosts what they need on their own disks."""
        for host in hosts:
            host.put_folder(ENGINE_ENV["VLLM_CACHE_ROOT"], self.models / "vllm-cache")


def engine_env(say: Callable[[str], None] = print) -> EngineEnv:
    """The environment, built first where it is missing: minutes the first time, nothing after that."""
    env = EngineEnv(CACHE / _key())
    with _locked():
        _stamped(env.folder / "venv", _key(), say, lambda: _build_venv(env, say))
        _stamped(env.models, _hash(MAKE_MODELS), say, lambda: _make_models(env, say))
        _forget_old(env.folder)
    return env


def _key() -> str:
    version = f"{sys.base_prefix} {sys.version}".encode()
    return _hash(REQUIREMENTS, *sorted(p for p in PLUGIN.rglob("*") if p.suffix in (".py", ".toml")), extra=version)


def _hash(*files: Path, extra: bytes = b"") -> str:
    return hashlib.sha256(extra + b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _stamped(folder: Path, key: str, say: Callable[[str], None], build: Callable[[], None]) -> None:
    """Builds a folder unless it was built to its end from the same sources: a killed build starts again."""
    stamp = folder / ".complete"
    if stamp.exists() and stamp.read_text() == key:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    build()
    stamp.write_text(key)
    say(f"lab: {folder.name} ready after {time.monotonic() - start:.0f} s")


def _build_venv(env: EngineEnv, say: Callable[[str], None]) -> None:
    pins = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    say(f"lab: building the hosts' engine environment once, {len(pins)} packages, about 2 minutes: {env.folder}")
    _run([sys.executable, "-m", "venv", str(env.folder / "venv")], env.folder)
    pip = [str(env.python), "-m", "pip", "install", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    _run([*pip, "-r", str(REQUIREMENTS)], env.folder, say)
    say("lab: installed; compiling Python files")
    _run([*pip, "--no-build-isolation", "--no-index", _copied_plugin(env.folder)], env.folder)
    compiler = [str(env.python), "-m", "compileall", "-q", "-j", "0", str(env.folder / "venv/lib")]
    _run(compiler, env.folder, check=False)  # some packages carry files for other Python versions


def _copied_plugin(folder: Path) -> str:
    """A build writes beside its sources, so it gets a copy of them."""
    copy = folder / "plugin"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(PLUGIN, copy)
    return str(copy)


def _make_models(env: EngineEnv, say: Callable[[str], None]) -> None:
    say("lab: making the models")
    _run([str(env.python), str(MAKE_MODELS), str(env.models)], env.folder)


def _run(argv: list[str], folder: Path, say: Callable[[str], None] | None = None, *, check: bool = True) -> None:
    """Runs one step of the build; its output goes to build.log, a count of packages to `say`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": ""}
    folder.mkdir(parents=True, exist_ok=True)
    collected = 0
    log_file = folder / "build.log"
    piped = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with log_file.open("a") as log, piped as process:  # leaving it closes the pipe and waits for the end
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            collected += line.startswith(("Collecting ", "Processing "))
            if say and line.startswith(("Collecting ", "Processing ")) and collected % 40 == 0:
                say(f"lab: {collected} packages fetched")
            if say and line.startswith("Installing collected packages"):
                say(f"lab: all {collected} packages fetched; installing")
    if check and process.returncode != 0:
        raise EnginesUnavailableError(f"{_why(log_file.read_text(errors='replace'))} (log: {log_file})")


def _why(log: str) -> str:
    if "No matching distribution found for torch==" in log:
        return (
            "the package index has no CPU build of PyTorch (torch +cpu): add PyTorch's CPU wheel index as an "
            "extra index, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
        )
    wanted = [line for line in log.splitlines() if line.startswith("ERROR: No matching distribution found for ")]
    if wanted:
        return f"the package index lacks {wanted[-1].rpartition(' ')[2]}, which the hosts' engine environment needs"
    return "the hosts' engine environment could not be built"


def _forget_old(newest: Path) -> None:
    os.utime(newest)
    folders = sorted((p for p in CACHE.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    for folder in folders[KEEP:]:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked() -> Iterator[None]:
    """One build at a time, also of runs beside each other."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    engine_env(lambda line: print(line, flush=True))  # noqa: T201
