"""Keeps the router's files true while engines come and go: names of engines become their addresses, once a second.

    follow_addresses.py TEMPLATES FOLDER

TEMPLATES has a file names.json, {address in the other files: DNS name}. Those others are written to FOLDER with each
address replaced by the one that its name has now; one that has none keeps its own, which nobody answers at. A file that
changes is renamed into place: Envoy reads it again, and what runs goes on.
"""

import json
import os
import re
import socket
import sys
import time
from typing import Dict, List

PAUSE_S = 1.0
NAMES = "names.json"


def main(templates: str, folder: str) -> None:
    known: Dict[str, str] = {}
    while True:
        step(templates, folder, known)
        time.sleep(PAUSE_S)


def step(templates: str, folder: str, known: Dict[str, str]) -> None:
    """`known` keeps what was found before."""
    source = os.path.realpath(os.path.join(templates, "..data"))  # of a ConfigMap: one version of all its files
    if not os.path.isdir(source):
        source = templates
    with open(os.path.join(source, NAMES)) as file:
        found = addresses(json.load(file), known)
    known.clear()
    known.update(found)
    write(source, folder, known)


def addresses(names: Dict[str, str], known: Dict[str, str]) -> Dict[str, str]:
    """One that is gone from the DNS is gone; when the DNS itself does not answer, the last address is kept."""
    found = {}
    for own, name in names.items():
        try:
            found[own] = str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
        except socket.gaierror as error:
            lost = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
            found[own] = own if lost else known.get(own, own)
    return found


def write(source: str, folder: str, known: Dict[str, str]) -> None:
    """The deepest first: endpoints before clusters, and last of all the file that Envoy starts from."""
    pattern = re.compile(r"(?<![0-9.])(" + "|".join(map(re.escape, known)) + r")(?![0-9.])") if known else None
    for path in sorted(files_of(source), key=lambda path: (-path.count("/"), path)):
        with open(os.path.join(source, path)) as file:
            text = file.read()
        put(os.path.join(folder, path), pattern.sub(lambda match: known[match[1]], text) if pattern else text)


def files_of(source: str) -> List[str]:
    found = []
    for folder, inner, names in os.walk(source, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith("..")]
        found += [os.path.relpath(os.path.join(folder, name), source) for name in names]
    return [path for path in found if path != NAMES]


def put(path: str, text: str) -> None:
    try:
        with open(path) as file:
            if file.read() == text:
                return
    except OSError:
        pass
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


if __name__ == "__main__":
    main(*sys.argv[1:])
