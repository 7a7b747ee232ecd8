"""Errors of supervised training that a user can act on."""


class SftError(ValueError):
    """A recipe, prepared set or checkpoint that can't be trained on; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy
