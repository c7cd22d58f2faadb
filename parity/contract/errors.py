"""The one error of our own: a limit of this library, as opposed to a mistake of the caller (ValueError)."""


class UnsupportedError(NotImplementedError):
    """The request is sound, but this library cannot serve it here. The message names the limit and the way out."""
