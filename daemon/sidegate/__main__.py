"""Where `sidegate` and `python -m sidegate` begin."""

import sys


def main() -> None:
    """The console script."""
    try:
        from sidegate.cli import main as begin  # late: whoever presses Ctrl-C meanwhile wants no traceback
    except KeyboardInterrupt:
        sys.exit(130)
    begin()


if __name__ == "__main__":
    main()
