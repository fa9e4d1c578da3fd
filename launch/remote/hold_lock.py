"""Holds a lock on this machine while whoever started it shows signs of life. Runs on any Python from 3.6.

    hold_lock.py FOLDER SECONDS HOLDER

Takes the file lock FOLDER/lock and prints "held", or prints what its present holder left there and exits with 4.
Then answers whatever comes on stdin with a line, and ends, which frees the lock, at "bye", at end of file or after
SECONDS of silence. The kernel frees it too when this process is killed. HOLDER, one line of JSON, says who holds it.
"""

import errno
import fcntl
import os
import select
import sys

BUSY = 4
LIMIT = 65536


def main(folder: str, seconds: float, holder: str) -> int:
    folder = os.path.expanduser(folder)
    os.umask(0o077)
    os.makedirs(folder, exist_ok=True)
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        say(os.pread(lock, LIMIT, 0).decode("utf-8", "replace").replace("\n", " ") or "{}")
        return BUSY
    os.ftruncate(lock, 0)
    os.pwrite(lock, holder.encode("utf-8", "surrogateescape"), 0)
    say("held")
    while heard(seconds):
        say("alive")
    os.ftruncate(lock, 0)
    return 0


def heard(seconds: float) -> bool:
    """False after "bye", at the end of stdin, or when nothing came for so long."""
    ready, _, _ = select.select([0], [], [], seconds)
    said = os.read(0, LIMIT) if ready else b""
    return said != b"" and b"bye" not in said


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more; a normal exit would complain about it on stderr
    except OSError as error:
        say("cannot lock: %s" % error)
        sys.exit(1)
