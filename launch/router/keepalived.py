"""keepalived.conf of a router's node, for an address that moves to the next node when a router or its node is away.

It lies beside the router's files and is taken into keepalived's own by the operator, since that runs as root:
`include FOLDER/keepalived.conf`. Words and defaults: keepalived.conf(5) of 2.2.7.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from llmfleet.launch.router.clusters import address_of, is_ip
from llmfleet.planner.plan import Plan

KEEPALIVED_FILE = "keepalived.conf"
INTERFACE = "eth0"  # where the inventory names none
# Seconds between two of a master's words, by default 1: three of them missed, and another takes the address over, while
# requests fail. Two checks missed do the same, which a busy moment is not to cause: a router that ended is started
# again sooner.
ADVERT_S, CHECK_S = 0.3, 2


def keepalived_files(
    plan: Plan, node: str, hosts: Mapping[str, str], interface: str | None = None
) -> Mapping[str, str]:
    """Text by path; nothing where routers share no IP address. `interface`: the node's, of its address."""
    router = plan.router
    if not router.also or router.address is None or not is_ip(router.address):
        return {}
    peers = [address_of(name, hosts) for name in router.nodes if name != node]
    ready = f"http://127.0.0.1:{router.admin_port}/ready"
    lines = [
        f"# {plan.cluster}: {router.address} at one of {', '.join(router.nodes)}. The check needs curl.",
        "vrrp_script llmfleet_router {",
        f'    script "/usr/bin/curl -fsS -m {CHECK_S} -o /dev/null {ready}"',
        "    user nobody",
        f"    interval {CHECK_S}",
        "    fall 2",
        "    rise 1",
        "}",
        "vrrp_instance llmfleet {",
        f"    interface {interface or INTERFACE}" + ("" if interface else "  # a guess: runtime.interface says better"),
        f"    virtual_router_id {_router_id(plan)}",
        "    version 3",
        f"    advert_int {ADVERT_S}",
        "    state BACKUP",
        f"    priority {100 - router.nodes.index(node)}",
        "    nopreempt",
        f"    unicast_src_ip {address_of(node, hosts)}",
        "    unicast_peer {",
        *(f"        {peer}" for peer in peers),
        "    }",
        "    virtual_ipaddress {",
        f"        {router.address}",
        "    }",
        "    track_script {",
        "        llmfleet_router",
        "    }",
        "}",
    ]
    return {KEEPALIVED_FILE: "\n".join([*lines, ""])}


def _router_id(plan: Plan) -> int:
    """1..255, the same on all nodes of a fleet and seldom that of another fleet in the same network."""
    digest = hashlib.sha256(json.dumps([plan.cluster, plan.router.address]).encode()).digest()
    return 1 + digest[0] % 255
