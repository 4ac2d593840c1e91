"""Why an upload failed: a store's answer reduced to a word for metrics and a sentence for people.

A store's own words stay out of both, but for its error code: they may repeat what was sent.
"""

import re
from typing import Final, Literal

from sdserver.errors import UploadError

Reason = Literal[
    "denied", "missing", "slow_down", "clock", "timeout", "unreachable", "server", "refused", "unreadable"
]
ADVICE: Final[dict[Reason, str]] = {
    "denied": "The store refuses the login{}; check the keys and what they allow.",
    "missing": "The store has no such bucket or path{}; check --upload-url.",
    "slow_down": "The store asks for fewer requests{}.",
    "clock": "The store finds this machine's clock wrong{}; set it right.",
    "timeout": "The store did not answer in time{}.",
    "unreachable": "The store cannot be reached{}; check its address and the network.",
    "server": "The store failed{}.",
    "refused": "The store does not take the picture{}.",
    "unreadable": "A waiting picture could not be read{}.",
}
OF_STATUS: Final[dict[int, Reason]] = {
    401: "denied",
    403: "denied",
    404: "missing",
    407: "denied",
    408: "timeout",
    410: "missing",
    425: "slow_down",
    429: "slow_down",
    503: "slow_down",
    504: "timeout",
}
OF_CODE: Final[dict[str, Reason]] = {
    "RequestTimeTooSkewed": "clock",
    "RequestTimeout": "timeout",
    "SlowDown": "slow_down",
    "ServiceUnavailable": "slow_down",
    "ServerBusy": "slow_down",
    "ExpiredToken": "denied",
    "InvalidAccessKeyId": "denied",
    "SignatureDoesNotMatch": "denied",
    "AuthorizationHeaderMalformed": "denied",
    "NoSuchBucket": "missing",
}
CODE: Final = re.compile(r"<Code>([A-Za-z0-9._-]{1,64})</Code>")
LONGEST_RETRY_AFTER: Final = 300.0


class UploadFailure(UploadError):
    """One try to upload a picture failed; a later one may succeed.

    Attributes:
        reason: for metrics.
        retry_after: seconds that the store asked for, or 0.
    """

    def __init__(self, reason: Reason, detail: str = "", retry_after: float = 0.0) -> None:
        super().__init__(ADVICE[reason].format(f" ({detail})" if detail else ""))
        self.reason: Reason = reason
        self.retry_after = min(retry_after, LONGEST_RETRY_AFTER)


def failure_of(status: int, body: str, retry_after: float = 0.0) -> UploadFailure:
    """What an answer other than 2xx means.

    Args:
        status: of HTTP.
        body: its text, of which only an S3 error code is read.
        retry_after: seconds that it asked for.
    """
    found = CODE.search(body)
    code = found[1] if found else ""
    reason = OF_CODE.get(code) or OF_STATUS.get(status) or ("server" if status >= 500 else "refused")
    return UploadFailure(reason, f"{status} {code}".strip(), retry_after)
