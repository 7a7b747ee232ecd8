"""Errors of a reinforcement training that a user can act on; each says in `remedy` what to do about it."""


class RlError(ValueError):
    """A recipe, a data set, a machine or a server that this training can't use."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy
