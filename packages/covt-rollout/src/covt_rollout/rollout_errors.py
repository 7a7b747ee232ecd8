"""What goes wrong for the user: each error says what to do about it in `remedy`."""


class RolloutError(ValueError):
    """A request, record or setting that can't be rolled out as asked."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class ServerError(OSError):
    """The rollout server can't be started, reached or updated."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class ServerRefusedError(RolloutError):
    """The server answered that this request is wrong (HTTP 4xx): sending it again gives the same answer."""

    def __init__(self, message: str, remedy: str, status: int) -> None:
        super().__init__(message, remedy)
        self.status = status


class ServerUnreachableError(ServerError):
    """No usable answer after all attempts: the server is down, hangs, or keeps failing."""


class WeightPushError(ServerError):
    """A weight update did not take place; the server keeps answering with the version named in the message."""


class StaleWeightsError(ServerError):
    """The server answered with other weights than it was last given, for example after a restart."""
