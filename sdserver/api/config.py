"""What the API needs to know from the settings; the composition root fills it in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sdserver.prompt.styles import Style


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for at most.

    Attributes:
        min_side: least width and height in pixels.
        max_images: batch size times batch count.
        max_prompt: characters of a prompt, before styles.
        max_init_pixels: of the pictures that a client sends, together; of a mask alone.
    """

    max_width: int = 2048
    max_height: int = 2048
    max_pixels: int = 2048 * 2048
    max_steps: int = 150
    max_images: int = 64
    min_side: int = 8
    max_prompt: int = 50_000
    max_init_pixels: int = 64_000_000


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """Start-up facts of the API.

    Attributes:
        data_dir: holds `outputs`; pictures are saved below it.
        version: what infotexts and `info` name as the program's version.
        users: names and passwords for HTTP Basic; none: everybody may use the API.
        cors_allow_origins: origins of pages that may call the API; `*` for all.
        cors_allow_origins_regex: the same as a regular expression, empty for none.
        subpath: empty, or `/like/this`: the prefix under which a proxy serves us.
        max_body_bytes: of a request.
        finish_on_disconnect: whether a job goes on when its client has left.
        request_timeout: seconds after which a request is given up, 0 for never.
        encoders: threads that encode and save pictures.
        flags: what `cmd-flags` answers; names that sound like secrets are masked all the same.
        styles: templates that requests may name.
        a1111_quirks: answer bad requests with AUTOMATIC1111's status, and guess as it does where a name
            is not known; see `api.quirks`.
    """

    data_dir: Path
    version: str
    limits: Limits = field(default_factory=Limits)
    users: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cors_allow_origins: tuple[str, ...] = ()
    cors_allow_origins_regex: str = ""
    subpath: str = ""
    max_body_bytes: int = 100_000_000
    finish_on_disconnect: bool = False
    request_timeout: float = 0.0
    encoders: int = 2
    flags: Mapping[str, object] = field(default_factory=dict)
    styles: tuple[Style, ...] = ()
    a1111_quirks: bool = False
