"""``python -m advnas_lightning``."""

from advnas_lightning.app import main

if __name__ == "__main__":
    main()
