"""``python -m wirecap`` and the ``wirecap`` command."""

from __future__ import annotations

import sys


def main() -> None:
    from wirecap.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
