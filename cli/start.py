"""Where `llmfleet` begins: Ctrl-C is no traceback, also while the command line is still being imported."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> int:
    try:
        from llmfleet.cli.app import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
