"""A systemd unit that keeps `llmfleet watch` running."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from llmfleet.launch.record.state import write_atomically
from llmfleet.launch.units.words import command, escaped, quoted
from llmfleet.planner.errors import InputError

SYSTEM, USER = Path("/etc/systemd/system"), Path("~/.config/systemd/user")
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  # where PrivateTmp would hide what lies there


def unit_name(cluster: str) -> str:
    return f"llmfleet-watch-{cluster}.service"


def unit_text(cluster: str, argv: Sequence[str], folder: Path, *, system: bool) -> str:
    """`folder`: of the inventory; only what lies in .llmfleet there is written to."""
    hardened = [
        "NoNewPrivileges=yes",
        _temporary([*argv, str(folder)]),
        "ProtectSystem=strict",
        f"ReadWritePaths={quoted(str(folder))}",
    ]
    return "\n".join(
        [
            "[Unit]",
            f"Description=llmfleet watch of {escaped(cluster)}",
            "Wants=network-online.target",
            "After=network-online.target",
            "",
            "[Service]",
            f"ExecStart={command(argv)}",
            f"WorkingDirectory={escaped(str(folder))}",
            "Restart=always",
            "RestartSec=10",
            "UMask=0077",
            *(hardened if system else []),
            "",
            "[Install]",
            f"WantedBy={'multi-user' if system else 'default'}.target",
            "",
        ]
    )


def _temporary(needed: Sequence[str]) -> str:
    """Room for temporary files: of its own, unless the program or the inventory lie in everybody's."""
    shared = any(Path(each).is_relative_to(top) for each in needed for top in TEMPORARY)
    return f"ReadWritePaths={' '.join(TEMPORARY)}" if shared else "PrivateTmp=yes"


def install(cluster: str, text: str, *, system: bool) -> Path:
    """Raises InputError where systemd does not like it, or it cannot be written."""
    path = (SYSTEM if system else USER).expanduser() / unit_name(cluster)
    try:
        write_atomically(path, text.encode())
        path.chmod(0o644)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", hint="--print-unit prints it.") from None
    if problem := complaint(path, system=system):
        path.unlink()
        raise InputError(f"systemd does not accept the unit: {problem}", hint="--print-unit prints it.")
    return path


def complaint(path: Path, *, system: bool) -> str:
    """What `systemd-analyze verify` says against it; nothing where it is not installed."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        return ""
    argv = [tool, *([] if system else ["--user"]), "verify", "--man=no", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    lines = [line for line in done.stderr.splitlines() if path.name in line]
    return "; ".join(lines) if done.returncode and lines else ""
