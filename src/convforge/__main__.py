"""``python -m convforge``."""

from convforge.cli import main

if __name__ == "__main__":
    main()
