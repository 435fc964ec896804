"""``python -m hetfed_lightning`` is ``hetfed``."""

from hetfed_lightning.cli import main

if __name__ == "__main__":
    main()
