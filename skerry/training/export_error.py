"""Why a model becomes no bundle."""

from skerry.errors import DataError


class ExportError(DataError):
    """A model that cannot be exported; names the layer and the reason."""
