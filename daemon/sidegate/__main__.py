"""Where `sidegate` and `python -m sidegate` begin."""

from sidegate.cli import main

if __name__ == "__main__":
    main()
