"""``python -m wirecap`` and the ``wirecap`` command."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from wirecap.cli.main import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules were still being imported
        sys.stderr.write("wirecap: interrupted\n")
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
