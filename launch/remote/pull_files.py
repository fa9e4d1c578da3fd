#!/usr/bin/env python3
"""Gets files over HTTP into a folder of this node, checked by sha256. Stand-alone: Python 3.6 and its library.

    pull_files.py     on stdin one line of JSON, which must stay open:
        {"files": [{"name", "path", "url", "size", "sha256"}], "key": HEX of a node that serves, "token": of a hub,
         "proxy": whether the environment's proxy counts}

Prints lines of JSON: {"done": bytes, "total": bytes} about once a second, and in the end {"sums": {NAME: sha256}} or
{"error": why, "kind": "disk", "network", "corrupt" or "refused"}. What was got of a file stays as PATH.HASH.part, and
is gone on with the next time; a file has its name once it is whole and right. Without a sha256 it is got anew.
"""

import binascii
import errno
import hashlib
import hmac
import http.client
import json
import os
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Optional

CHUNK = 1 << 20
ATTEMPTS = 5  # without a byte in between
BACKOFF_S = float(os.environ.get("LLMFLEET_PULL_BACKOFF_S", "1"))
SILENT_S = 30
SPARE_BYTES = 64 << 20
AT_ONCE = 4
File = Dict[str, Any]


class PullError(Exception):
    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Opener:
    """Hubs redirect to their storage, which gets no token of ours."""

    def __init__(self, asked: Dict[str, Any]) -> None:
        self.key, self.token = binascii.unhexlify(asked.get("key") or ""), asked.get("token")
        self.opener = urllib.request.build_opener(*([] if asked.get("proxy") else [urllib.request.ProxyHandler({})]))

    def open(self, file: File, begin: int) -> Any:
        request = urllib.request.Request(file["url"], headers={"User-Agent": "llmfleet"})
        if begin:
            request.add_header("Range", "bytes=%d-" % begin)
        if self.key:
            proof = hmac.new(self.key, os.fsencode(file["name"]), hashlib.sha256).hexdigest()
            request.add_unredirected_header("Authorization", "Fleet " + proof)
        elif self.token:
            request.add_unredirected_header("Authorization", "Bearer " + self.token)
        return self.opener.open(request, timeout=SILENT_S)


class Pull:
    def __init__(self, asked: Dict[str, Any]) -> None:
        self.files, self.opener = asked["files"], Opener(asked)
        self.total = sum(f["size"] for f in self.files)
        self.done = {f["name"]: 0 for f in self.files}  # bytes
        self.stop = threading.Event()

    def check_space(self) -> None:
        """Before anything is written."""
        wanted = {}  # type: Dict[int, int]
        for file in self.files:
            folder = os.path.dirname(file["path"])
            os.makedirs(folder, exist_ok=True)
            missing = file["size"] - size_of(file["path"] if right_size(file) else part(file))
            device = os.stat(folder).st_dev
            wanted[device] = wanted.get(device, 0) + max(0, missing)
            disk = os.statvfs(folder)
            free = disk.f_bavail * disk.f_frsize
            if wanted[device] and free < wanted[device] + SPARE_BYTES:
                what = "%s has %s free, %s more are to come" % (folder, mib(free), mib(wanted[device]))
                raise PullError("disk", what)

    def run(self) -> Dict[str, str]:
        self.check_space()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = {f["name"]: pool.submit(self.get, f) for f in self.files}
            errors = [e for e in (job.exception() for job in jobs.values()) if e is not None]
        if errors:  # that of the disk is the cause of others
            raise next((e for e in errors if isinstance(e, PullError) and e.kind == "disk"), errors[0])
        return {name: job.result() for name, job in jobs.items()}

    def get(self, file: File) -> str:
        """Its sha256. A file that is not what it should be is got once more from its first byte."""
        try:
            for again in (True, False):
                found = self.whole(file)
                if found is None:
                    found = self.fetch(file)
                if file["sha256"] in (None, found):
                    return self.keep(file, found)
                for path in (part(file), file["path"]):
                    remove(path)
                if not again:
                    raise PullError("corrupt", "%s arrived damaged twice: sha256 %s, not %s"
                                 % (file["name"], found, file["sha256"]))
            raise AssertionError
        except OSError as why:
            kind = "disk" if why.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO) else "refused"
            raise PullError(kind, "%s: %s" % (file["path"], why.strerror or why)) from why
        finally:
            if sys.exc_info()[0]:
                self.stop.set()  # the others need not go on

    def whole(self, file: File) -> Optional[str]:
        """Its sum, where it is there in full size."""
        if file["sha256"] is None:
            remove(part(file))
            return None
        if not right_size(file):
            return None
        digest = hashlib.sha256()
        with open(file["path"], "rb") as there:
            for chunk in iter(lambda: there.read(CHUNK), b""):
                digest.update(chunk)
        self.done[file["name"]] = file["size"]
        return digest.hexdigest()

    def fetch(self, file: File) -> str:
        digest, failures = hashlib.sha256(), 0
        with open(os.open(part(file), os.O_RDWR | os.O_CREAT, 0o600), "r+b") as out:
            for chunk in iter(lambda: out.read(CHUNK), b""):  # what an earlier attempt has left
                digest.update(chunk)
            if out.tell() > file["size"]:
                out.truncate(0)
                out.seek(0)
                digest = hashlib.sha256()
            while out.tell() < file["size"]:
                before = out.tell()
                self.done[file["name"]] = before
                why = self.some(file, out, digest)
                failures = 0 if out.tell() > before else failures + 1
                if self.stop.is_set():
                    raise PullError("network", "stopped")
                if why and failures >= ATTEMPTS:
                    raise PullError("network", "%s: %s" % (place(file["url"]), why))
                if why:
                    self.stop.wait(BACKOFF_S * 2 ** min(failures, 4))
            os.fsync(out.fileno())
        return digest.hexdigest()

    def some(self, file: File, out: Any, digest: Any) -> str:
        """Bytes until the file ends or the connection does; why it ended."""
        begin = out.tell()
        try:
            with self.opener.open(file, begin) as answer:
                if begin and answer.status != 206:
                    raise PullError("refused", "%s does not go on in the middle of a file" % place(file["url"]))
                while out.tell() < file["size"] and not self.stop.is_set():
                    chunk = answer.read(min(CHUNK, file["size"] - out.tell()))
                    if not chunk:
                        return "the connection was cut"
                    write(out, chunk)
                    digest.update(chunk)
                    self.done[file["name"]] = out.tell()
            return ""
        except urllib.error.HTTPError as why:
            if why.code in (408, 425, 429, 500, 502, 503, 504):
                return "HTTP status %d" % why.code
            what = "%s answers %s with HTTP status %d" % (place(file["url"]), file["name"], why.code)
            raise PullError("refused", what) from why
        except DiskError as why:
            raise OSError(why.errno, why.strerror) from why
        except (OSError, http.client.HTTPException) as why:
            return str(getattr(why, "reason", why)) or type(why).__name__

    def keep(self, file: File, found: str) -> str:
        if os.path.exists(part(file)):
            os.replace(part(file), file["path"])
        self.done[file["name"]] = file["size"]
        return found


class DiskError(Exception):
    """Apart from what a connection raises."""

    def __init__(self, why: OSError) -> None:
        super().__init__(why)
        self.errno, self.strerror = why.errno, why.strerror


def write(out: Any, chunk: bytes) -> None:
    try:
        out.write(chunk)
        out.flush()
    except OSError as why:
        raise DiskError(why) from why


def part(file: File) -> str:
    return "%s.%s.part" % (file["path"], (file["sha256"] or "unknown")[:16])


def right_size(file: File) -> bool:
    return os.path.isfile(file["path"]) and os.path.getsize(file["path"]) == file["size"]


def size_of(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


def place(url: str) -> str:
    """Without what may be secret in it."""
    parts = urllib.request.urlparse(url)  # type: ignore[attr-defined]
    return "%s://%s" % (parts.scheme, parts.netloc.rpartition("@")[2])


def mib(size: int) -> str:
    return "%.1f GiB" % (size / (1 << 30)) if size >= 1 << 30 else "%d MiB" % (size >> 20)


def say(**words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def report(pull: Pull, over: threading.Event) -> None:
    while not over.wait(1):
        say(done=sum(pull.done.values()), total=pull.total)


def end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(1)  # whoever asked is gone; parts stay


def main() -> int:
    os.umask(0o077)
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_stdin, daemon=True).start()
    over = threading.Event()
    try:
        pull = Pull(asked)
        threading.Thread(target=report, args=(pull, over), daemon=True).start()
        sums = pull.run()
    except PullError as why:
        over.set()
        say(error=str(why), kind=why.kind)
        return 1
    except OSError as why:
        over.set()
        say(error=str(why), kind="disk")
        return 1
    over.set()
    say(done=pull.total, total=pull.total)
    say(sums=sums)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
