"""As whom, and in which folder, a node is worked on. Another account sees neither the files nor the processes of ours
that the one before it left there: it would start everything a second time, and `down` would find nothing."""

from __future__ import annotations

import getpass

from llmfleet.launch.transport.ssh_config import user_name
from llmfleet.planner.errors import StateError
from llmfleet.planner.inventory.model import Access, Node

OF_ACCOUNT = ("user", "key", "password_env", "sudo", "sudo_password_env")  # of `access`: the rest is how to get there


def check_account(recorded: Node, node: Node) -> None:
    """Raises StateError where the inventory has the node worked on in another way than what runs there was started."""
    what = changed(recorded, node)
    if what:
        raise StateError(
            f"what runs there was started {what}: it would not be seen, and be started a second time",
            node=node.name,
            hint=f"Put that back. To change it, `llmfleet drain {node.name}` before and `llmfleet undrain {node.name}` "
            "after; or `llmfleet down`, which finds all of it as it was started, and `llmfleet up`.",
        )


def changed(recorded: Node, node: Node) -> str:
    """In words, "" where it is the same account and folder, wherever the node is reached today."""
    before, now = _accounts(recorded, node)
    if before != now:
        return f"as {before}, and its `access` says {now} now"
    if recorded.runtime.dir != node.runtime.dir:
        return f"in {recorded.runtime.dir}, and its `runtime: dir` says {node.runtime.dir} now"
    return ""


def as_started(recorded: Node, node: Node) -> Node:
    """The node where the inventory has it today, worked on as when what runs there was started."""
    if not changed(recorded, node):
        return node
    access = node.access.model_copy(update={key: getattr(recorded.access, key) for key in OF_ACCOUNT})
    runtime = node.runtime.model_copy(update={"dir": recorded.runtime.dir})
    return node.model_copy(update={"access": access, "runtime": runtime})


def _accounts(recorded: Node, node: Node) -> tuple[str, str]:
    """On record and in the inventory."""
    keys = ("transport", "user", "sudo")
    if all(getattr(recorded.access, key) == getattr(node.access, key) for key in keys):
        return "", ""  # also where ssh_config has another user for another address: it may be that of a machine moved
    return _account(recorded.access, node.host), _account(node.access, node.host)


def _account(access: Access, host: str) -> str:
    """A user who is left out is whom ssh_config has for the host of today, or the operator."""
    if access.sudo:
        return "root"
    of_config = user_name(host) if access.transport in ("ssh", "openssh") else None
    return (access.transport != "local" and access.user) or of_config or getpass.getuser()
