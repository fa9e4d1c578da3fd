"""How launch reaches nodes. Only what is used is imported: the SSH libraries cost a third of a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmfleet.launch.transport.base import Argv, Completed, Stream, Transport

if TYPE_CHECKING:
    from llmfleet.planner.inventory.model import Node

__all__ = ["Argv", "Completed", "Stream", "Transport", "open_transport"]


def open_transport(node: Node) -> Transport:
    """The node's transport, not yet connected. InputError when its address or ssh_config makes no sense."""
    if node.access.transport == "local":
        from llmfleet.launch.transport.local import LocalTransport
        from llmfleet.launch.transport.sudo import sudo_of

        sudo_of(node.name, node.access)
        return LocalTransport(node.name)
    if node.access.transport == "fake":
        from llmfleet.launch.transport.fake import FakeTransport

        return FakeTransport(node.name)
    if node.access.transport == "openssh":
        from llmfleet.launch.transport.openssh import OpensshTransport

        return OpensshTransport(node.name, node.host, node.access)
    from llmfleet.launch.transport.gateway import gateway_to
    from llmfleet.launch.transport.ssh import SshTransport

    return SshTransport(node.name, node.host, node.access, gateway_to(node.host, node.access))
