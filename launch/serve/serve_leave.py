"""Tells Ray that the node at an address is about to leave: Serve sends no new replica there, and has those that are
there finish. Run by `llmfleet drain` on the head."""

import argparse
import logging

import ray
from ray._private.worker import global_worker
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

REASON = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")  # the one that is not refused for a busy node
NO_DEADLINE = 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Tells Ray that a node is about to leave.")
    parser.add_argument("address")
    asked = parser.parse_args()
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    gcs = GcsClient(address=global_worker.gcs_client.address)
    for node in ray.nodes():
        if node["Alive"] and node["NodeManagerAddress"] == asked.address:
            accepted, why = gcs.drain_node(node["NodeID"], REASON, "llmfleet drain", NO_DEADLINE)
            if not accepted:
                raise SystemExit("Ray does not let it leave: %s" % why)


if __name__ == "__main__":
    main()
