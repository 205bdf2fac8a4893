"""What JetStream answers instead of doing what it was asked."""

from __future__ import annotations


class Refusal(Exception):
    """An error of the JetStream API, with the server's own numbers."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.err_code = err_code
        self.description = description

    def body(self) -> dict[str, object]:
        """The `error` object of an answer."""
        return {"code": self.code, "err_code": self.err_code, "description": self.description}


def wrong_last_sequence(last: int) -> Refusal:
    return Refusal(400, 10071, f"wrong last sequence: {last}")


def no_message() -> Refusal:
    return Refusal(404, 10037, "no message found")


def no_stream() -> Refusal:
    return Refusal(404, 10059, "stream not found")


def no_consumer() -> Refusal:
    return Refusal(404, 10014, "consumer not found")


class NoResponders(Exception):
    """Nobody is there who could answer: no such stream or consumer."""
