"""``python -m tracescribe``: the same command line as ``tracescribe``."""

from .cli import main

if __name__ == "__main__":
    main()
