"""``python -m advnas_lightning``."""

from advnas_lightning.cli.main import main

if __name__ == "__main__":
    main()
