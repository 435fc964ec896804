"""Entry point of ``python -m hetfed_lightning``, the same as ``hetfed``."""

from hetfed_lightning.cli import main

if __name__ == "__main__":
    main()
