"""Errors for users; each says in `remedy` what to do about it."""


class RolloutError(ValueError):
    """A request, a record or a setting is wrong."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class ServerError(OSError):
    """The rollout server can't be started, reached or updated."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class ServerRefusedError(RolloutError):
    """The server refused the request (HTTP 4xx), and would refuse it again."""

    def __init__(self, message: str, remedy: str, status: int) -> None:
        super().__init__(message, remedy)
        self.status = status


class ServerUnreachableError(ServerError):
    """There was no usable answer after all attempts: the server is down, hangs, or keeps failing."""


class WeightPushError(ServerError):
    """A weight update failed; the message names the version that the server keeps serving."""


class StaleWeightsError(ServerError):
    """The server answered with other weights than the last ones pushed, for example after a restart."""
