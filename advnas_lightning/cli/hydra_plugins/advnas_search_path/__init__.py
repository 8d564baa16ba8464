"""Lets any Hydra app choose from the config groups of advnas-lightning, without a ``hydra.searchpath`` of its own."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class AdvnasSearchPath(SearchPathPlugin):
    """Adds the configuration of the package to the end of an app's search path, behind the app's own.

    Example:
        >>> from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
        >>> path = ConfigSearchPathImpl()
        >>> AdvnasSearchPath().manipulate_search_path(path)
        >>> [each.path for each in path.get_path()]
        ['pkg://advnas_lightning.conf']
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the configuration of the package behind all that the app has on its search path.

        Args:
            search_path: The search path of the app.
        """
        search_path.append(provider="advnas-lightning", path="pkg://advnas_lightning.conf")
