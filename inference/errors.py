"""Every refusal and failure that a person or a client can meet, in one table.

Each class is one row: its code (the WebSocket's and the API's), its HTTP status, the OpenAI error type, and the
sentence, which says what happened and what to do next. The doors map; they invent nothing.

    DomainError
    ├── BadRequest      malformed, empty, too long, unknown
    ├── NotFound        not there, or not yours: a stranger cannot tell which
    ├── Conflict        the same key with another body; an answer is still being written
    ├── Unavailable     no worker, a long queue, a part of the server that does not answer
    └── GenerationError how a generation that was accepted can fail
"""

from __future__ import annotations


class DomainError(Exception):
    """A refusal with words for the person who asked. `sentence` may hold {fields} that the raiser fills."""

    code = "error"
    status = 500
    openai_type = "server_error"
    sentence = "Something went wrong on our side. Try again."

    def __init__(self, **fields: object) -> None:
        self.message = self.sentence.format(**fields)
        super().__init__(self.message)


class BadRequest(DomainError):
    code, status, openai_type = "bad_request", 400, "invalid_request_error"
    sentence = "That request was malformed: {detail}."


class BadFrame(BadRequest):
    code = "bad_frame"
    sentence = "The server did not understand that frame: {detail}."


class FrameTooLarge(BadRequest):
    code, status = "frame_too_large", 413
    sentence = "That was {size:,} bytes, and one frame holds at most {limit:,}. Shorten it and send it again."


class EmptyMessage(BadRequest):
    code = "empty_message"
    sentence = "There is nothing in that message yet. Write something and send it again."


class MessageTooLong(BadRequest):
    code, status = "message_too_long", 413
    sentence = "That message has {size:,} bytes, and the limit is {limit:,}. Shorten it and send it again."


class InvalidText(BadRequest):
    code = "invalid_text"
    sentence = "That message holds characters that are not valid text. Remove them and send it again."


class UnknownModel(BadRequest):
    code, status = "unknown_model", 404
    sentence = "There is no model of that name here. Choose one from the list."


class NotFound(DomainError):
    code, status, openai_type = "not_found", 404, "invalid_request_error"
    sentence = "This does not exist, or it belongs to someone else."


class Conflict(DomainError):
    code, status, openai_type = "conflict", 409, "invalid_request_error"
    sentence = "That contradicts what was asked before."


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"
    sentence = "That key was used for another request. Use a new key for a new request."


class AlreadyStarted(Conflict):
    code = "already_started"
    sentence = "That answer has begun already, so it stays with its model."


class CannotContinue(Conflict):
    code = "cannot_continue"
    sentence = "This answer cannot go on where it ended. Ask for the rest in a new message, or try again."


class AnswerInProgress(Conflict):
    code = "answer_in_progress"
    sentence = "The answer before this one is still being written. Wait for it, or stop it, and send again."


class NothingToShare(BadRequest):
    code = "nothing_to_share"
    sentence = "There is nothing to share in this conversation yet. Ask something first."


class ShareUnfinished(Conflict):
    code = "share_unfinished"
    sentence = "An answer is still being written. Wait for it, or stop it, and share again."


class ShareTooLarge(BadRequest):
    code, status = "share_too_large", 413
    sentence = (
        "This conversation has {messages:,} messages and {size:,} bytes. "
        "A share holds at most {message_limit:,} messages and {size_limit:,} bytes."
    )


class TooManyShares(DomainError):
    code, status, openai_type = "too_many_shares", 429, "rate_limit_error"
    sentence = "You have {limit} shares already. Stop sharing one of them, and share this one again."


class TooManyCopies(DomainError):
    code, status, openai_type = "too_many_copies", 429, "rate_limit_error"
    sentence = "You began {limit} conversations within an hour. Wait a little, and continue this one then."


class TooManyActive(DomainError):
    code, status, openai_type = "too_many_active", 429, "rate_limit_error"
    sentence = "{limit} of your answers are being written already. Wait for one, or stop one, and send again."


class TooManyFollowed(DomainError):
    code, status, openai_type = "too_many_followed", 429, "rate_limit_error"
    sentence = "This connection follows {limit} answers already. Close a tab or wait for one to end."


class TooManyConnections(DomainError):
    code, status, openai_type = "too_many_connections", 429, "rate_limit_error"
    sentence = "{limit} pages of yours are connected already. Close some of them and load this one again."


class SessionGone(DomainError):
    code, status, openai_type = "session_expired", 401, "authentication_error"
    sentence = "Your session has ended. Load the page again; what you typed is kept."


class Unavailable(DomainError):
    code, status = "unavailable", 503
    sentence = "A part of the server does not answer. Nothing was lost; try again in a moment."


class NoWorker(Unavailable):
    code = "no_worker"
    sentence = "{model} is not running at the moment. Choose another model, or try again in a minute."


class QueueFull(Unavailable):
    code = "queue_full"
    sentence = "{waiting} messages are waiting for {model}, more than it can take. Choose another model, or try later."


class GenerationError(DomainError):
    """Stored as a code on the generation that failed."""


class ContextExceeded(GenerationError):
    code, status, openai_type = "context_exceeded", 400, "invalid_request_error"
    sentence = (
        "This message is longer than the model can read at once. Shorten it, or choose a model with more context."
    )


class EngineFailed(GenerationError):
    code = "engine_failed"
    sentence = "The model failed while it was answering. What it wrote is kept; try again."


class ModelUnreachable(GenerationError):
    code, status = "model_unreachable", 503
    sentence = (
        "The machine that runs this model does not answer. Your message is kept; try again in a minute, or choose "
        "another model."
    )


class ModelBusy(GenerationError):
    code, status = "model_busy", 503
    sentence = "The model has more to answer than it can take. Your message is kept; try again in a minute."


class ModelRefused(GenerationError):
    code, status = "model_refused", 502
    sentence = (
        "The machine that runs this model did not take the request. Your message is kept; choose another model, or "
        "tell whoever runs this site."
    )


class WorkerLost(GenerationError):
    code = "worker_lost"
    sentence = "The machine that was answering stopped. What it wrote is kept; try again."


class NeverStarted(GenerationError):
    code, status = "never_started", 503
    sentence = "No machine for this model came in time. Your message is kept; try again, or choose another model."


def _rows(base: type[DomainError]) -> list[type[DomainError]]:
    return [base, *(row for child in base.__subclasses__() for row in _rows(child))]


TABLE: dict[str, type[DomainError]] = {row.code: row for row in _rows(DomainError)}


def sentence(code: str) -> str:
    """The sentence of a code that was stored on a generation; the general one for a code of a later version."""
    return TABLE.get(code, DomainError).sentence
