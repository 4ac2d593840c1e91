"""Every error that sdserver raises on purpose, in one tree.

    SdServerError
    ├── SettingsError             the start-up settings make no sense
    ├── RequestError              the request cannot be served as it is; sending it again is no use
    │   ├── InvalidField          a field's value is out of range or of the wrong kind
    │   ├── UnknownSampler        no sampler or schedule of that name
    │   ├── UnknownCheckpoint     no checkpoint of that name
    │   ├── UnknownPicture        no saved picture of that name
    │   ├── TaskExists            another request goes by that id or key
    │   ├── AddressRefused        an address that a client named is not allowed, or does not answer
    │   ├── SettingsFrozen        the operator does not let clients change that option
    │   └── BodyTooLarge          the body exceeds the limit
    ├── Refused                   nothing was done; the same request may succeed later
    │   ├── QueueFull             as many jobs wait as may
    │   └── NotReady              no checkpoint is loaded, or the node is draining
    ├── JobError                  an accepted job could not be finished
    │   ├── OutOfMemory           the device's memory does not suffice
    │   ├── PoisonJob             the job ended its engine twice
    │   └── EngineFailure         anything else that went wrong on the device
    │       └── NansException     a network's result is not a number; the name is AUTOMATIC1111's
    ├── CheckpointError           a checkpoint cannot be used
    │   ├── UnreadableCheckpoint  damaged, unsafe, or not a checkpoint
    │   ├── UnsupportedCheckpoint of a family or layout that is not served
    │   └── UnusableAdapter       a LoRA or hypernetwork that is damaged or made for another family
    ├── MissingModel              what is asked for needs a model that is not there
    ├── NotServed                 nothing here does it, whatever the request says
    ├── DownloadError             a file could not be fetched
    └── UploadError               a picture could not be sent to the store

Nothing here knows HTTP: `api.errors` maps this tree to status codes.
"""


class SdServerError(Exception):
    """Base of all errors raised on purpose. The message is one sentence that says what to do."""


class SettingsError(SdServerError):
    """The start-up settings make no sense."""


class RequestError(SdServerError):
    """The request cannot be served as it is."""


class InvalidField(RequestError):
    """A field's value is out of range or of the wrong kind.

    Attributes:
        field: the field's name as the client wrote it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class UnknownSampler(RequestError):
    """No sampler or schedule of that name."""


class UnknownPicture(RequestError):
    """No saved picture of that name."""


class UnknownCheckpoint(RequestError):
    """No checkpoint of that name."""


class TaskExists(RequestError):
    """Another request goes by that id or idempotency key."""


class AddressRefused(RequestError):
    """An address that a client named is not allowed, or does not answer."""


class SettingsFrozen(RequestError):
    """The operator does not let clients change that option."""


class BodyTooLarge(RequestError):
    """The request's body exceeds the limit."""


class Refused(SdServerError):
    """Nothing was done; the same request may succeed later.

    Attributes:
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Refused):
    """As many jobs wait as may."""


class NotReady(Refused):
    """No checkpoint is loaded, or the node is draining."""


class JobError(SdServerError):
    """An accepted job could not be finished."""


class OutOfMemory(JobError):
    """The device's memory does not suffice for the job."""


class PoisonJob(JobError):
    """The job ended its engine twice and is not tried again."""


class EngineFailure(JobError):
    """Anything else that went wrong on the device."""


class NansException(EngineFailure):
    """A network's result is not a number."""


class CheckpointError(SdServerError):
    """A checkpoint cannot be used."""


class UnreadableCheckpoint(CheckpointError):
    """Damaged, unsafe, or not a checkpoint."""


class UnsupportedCheckpoint(CheckpointError):
    """Of a family or layout that is not served."""


class UnusableAdapter(CheckpointError):
    """A LoRA or hypernetwork is missing, damaged, of an unknown kind or made for another family."""


class MissingModel(SdServerError):
    """What is asked for needs a model that is not there."""


class NotServed(SdServerError):
    """Nothing here does it, whatever the request says."""


class DownloadError(SdServerError):
    """A file could not be fetched."""


class UploadError(SdServerError):
    """A picture could not be sent to the store."""
