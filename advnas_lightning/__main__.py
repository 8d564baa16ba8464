"""The command ``python -m advnas_lightning``, which runs a search."""

from advnas_lightning.cli.main import main

if __name__ == "__main__":
    main()
