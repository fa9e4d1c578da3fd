#!/usr/bin/env python3
"""vLLM's part of an instance over several nodes without Ray: the server on the first, workers alone on the others.

    vllm_rank.py LIFELINE RANKS --model … --nnodes 2 --node-rank 0 --master-addr … --master-port … …

LIFELINE is ADDRESS:PORT of the first node, RANKS the addresses of the others, first rank first, with commas. Each of
those keeps a connection to the first open for as long as it lives. vLLM itself does not notice a lost rank until a
request hangs. Here the first ends when a rank is gone, and a rank when the first is: so supervisors start all again.
Other ranks than the first need no `vllm` command: this is `vllm serve --headless`.
"""

import os
import runpy
import socket
import sys
import threading
import time
from typing import List, Tuple

SERVER = "vllm.entrypoints.openai.api_server"
MEET_WITHIN_S = 600.0
HELLO = b"rank %d\n"
# A peer that lost its power says nothing: it counts as gone after about 15 s without an answer.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 2))


def address(text: str) -> Tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, seconds)


def wait_for_end(connection: socket.socket) -> None:
    """Returns when the other end is gone. It says nothing while it lives."""
    connection.settimeout(None)
    try:
        while connection.recv(64):
            pass
    except OSError:
        pass


def end(why: str) -> None:
    print("error: %s; the instance starts again as a whole" % why, flush=True)
    os._exit(1)  # the supervisor ends what we started


def watch_ranks(place: Tuple[str, int], ranks: List[str]) -> None:
    """Of the first node. Connections from elsewhere, or that say something else, mean nothing."""
    listener = socket.create_server(place, family=socket.AF_INET6 if ":" in place[0] else socket.AF_INET)

    def follow(connection: socket.socket, peer: str) -> None:
        connection.settimeout(10)
        try:
            said = connection.recv(64)
        except OSError:
            return
        for rank, host in enumerate(ranks, 1):
            if said == HELLO % rank and host == peer:
                keep_alive(connection)
                print("rank %d is there: %s" % (rank, peer), flush=True)
                wait_for_end(connection)
                end("rank %d on %s is gone" % (rank, peer))
        connection.close()

    while True:
        connection, peer = listener.accept()
        threading.Thread(target=follow, args=(connection, peer[0]), daemon=True).start()


def hold_on(place: Tuple[str, int], rank: int, own: str) -> None:
    """Of the other nodes: returns once the first one is there, and ends this process when it is gone."""
    deadline = time.monotonic() + MEET_WITHIN_S
    while True:
        try:
            connection = socket.create_connection(place, 10, (own, 0))
            break
        except OSError as why:
            if time.monotonic() > deadline:
                sys.exit("error: the instance's first node does not answer at %s:%d: %s" % (*place, why))
            time.sleep(0.5)
    connection.sendall(HELLO % rank)
    keep_alive(connection)

    def follow() -> None:
        wait_for_end(connection)
        end("the instance's first node is gone")

    threading.Thread(target=follow, daemon=True).start()


def headless() -> None:
    from vllm.entrypoints.cli import serve

    parser = serve.FlexibleArgumentParser()
    command = serve.ServeSubcommand()
    command.subparser_init(parser.add_subparsers())
    command.cmd(parser.parse_args(["serve", "--headless", *sys.argv[1:]]))


def main() -> None:
    place, ranks = address(sys.argv.pop(1)), sys.argv.pop(1).split(",")
    rank = int(sys.argv[sys.argv.index("--node-rank") + 1])
    if rank == 0:
        threading.Thread(target=watch_ranks, args=(place, ranks), daemon=True).start()
        runpy.run_module(SERVER, run_name="__main__")
    else:
        hold_on(place, rank, ranks[rank - 1])
        headless()


if __name__ == "__main__":
    main()
