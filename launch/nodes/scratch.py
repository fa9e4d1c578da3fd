"""Where a node's processes keep sockets and other things that end with them: a folder of ours with a short path."""

from __future__ import annotations

import hashlib

from llmfleet.launch.fleet import NodeFolder

SHORT = "/tmp/llmfleet"  # noqa: S108  # the folder is made with mode 0700
LONGEST = 38  # a socket's path has 107 characters at most; Ray adds up to 69


def scratch_folder(folder: NodeFolder) -> str:
    """With our other files, unless that makes paths of sockets too long. `supervise.py sweep` removes both."""
    own = f"{folder.root}/scratch"
    if len(own) <= LONGEST:
        return own
    return f"{SHORT}-{hashlib.sha256(folder.root.encode()).hexdigest()[:12]}"


def scratch_env(folder: NodeFolder) -> dict[str, str]:
    """Temporary files of engines: killed ones leave theirs behind."""
    return {"TMPDIR": scratch_folder(folder) + "/tmp"}  # noqa: S108  # ours
