"""What goes wrong for the user: each error says what to do about it in `remedy`."""


class ModelError(ValueError):
    """A setting, a row or a checkpoint's content that latent decoding can't work with."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class CheckpointError(OSError):
    """A checkpoint folder or one of its files is missing or unreadable."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy
