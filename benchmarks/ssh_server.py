"""Hosts for ssh_scale.py: one SSH server on many loopback addresses. Run by the benchmark's own environment.

    ssh_server.py FOLDER COUNT PORT DELAY_S

Commands are not executed: the words `bench-NAME` in one are answered with FOLDER/NAME, after DELAY_S, so that the cost
of a remote command is the same for every client and as small as can be. What a client wraps around them is passed over.
"""

import asyncio
import re
import sys
from pathlib import Path

import asyncssh  # type: ignore[import-not-found]

WORD = re.compile(r"bench-([a-z]+)")
MARK = re.compile(r"^printf '%s\\n' (llmfleet:[0-9a-f]+);")  # what llmfleet has a login shell say first


def address(number: int) -> str:
    return f"127.77.{number // 250}.{number % 250 + 1}"


async def serve(folder: Path, count: int, port: int, delay_s: float) -> None:
    answers = {path.name: path.read_text() for path in (folder / "answers").iterdir()}

    async def command(process: asyncssh.SSHServerProcess) -> None:  # type: ignore[no-any-unimported]
        line = process.command or ""
        asked = WORD.findall(line)
        await asyncio.sleep(delay_s)
        if mark := MARK.match(line):
            process.stdout.write(mark[1] + "\n")
            process.stderr.write(mark[1] + "\n")
        for name in asked:
            process.stdout.write(answers[name])
        process.exit(0 if asked or "echo" in line or "uname" in line else 127)

    options = {
        "server_host_keys": [str(folder / "host")], "authorized_client_keys": str(folder / "client.pub"),
        "process_factory": command, "login_timeout": 120, "backlog": 512,
    }
    servers = [await asyncssh.listen(address(n), port, **options) for n in range(count)]
    (folder / f"ready-{port}").touch()
    await asyncio.gather(*(server.wait_closed() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
