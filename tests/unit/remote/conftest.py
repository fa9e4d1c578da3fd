from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervised_node import Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    node.folder.mkdir()
    yield node
    node.supervise("sweep", str(node.folder))


@pytest.fixture
def foreign() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose marker names another folder."""
    environment = {**os.environ, "LLMFLEET_PROCESS": "/elsewhere/chat"}
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=environment)
    yield process
    process.send_signal(signal.SIGKILL)
    process.wait()
