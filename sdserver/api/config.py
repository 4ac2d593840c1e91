"""What the API needs to know from the settings; the composition root fills it in."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sdserver.api.closing import Closing
from sdserver.api.door import Door
from sdserver.api.downloads import FetchModel
from sdserver.images.files import OnSaved
from sdserver.prompt.styles import Style


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for at most.

    Attributes:
        min_side: least width and height in pixels.
        max_images: batch size times batch count.
        max_prompt: characters of a prompt, before styles.
        max_work: pixels times steps, over all pictures and passes of a request, 0 for no limit of its own.
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
    max_work: int = 0


def _terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def _exit() -> None:
    os._exit(0)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the server is ended.

    Attributes:
        stop: begins the end, as SIGTERM does: what was accepted is finished first. May be called again.
        kill: ends the process now; does not return.
        restart: as stop, and then begins again; None where that cannot be done.
    """

    stop: Callable[[], None] = _terminate
    kill: Callable[[], None] = _exit
    restart: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """Start-up facts of the API.

    Attributes:
        data_dir: holds `outputs`; pictures are saved below it.
        version: what infotexts and `info` name as the program's version.
        users: names and passwords for HTTP Basic and for `/login`; without users and keys everybody may
            use the API.
        login_page: whether browsers without a login are sent to `/login` instead of asked for HTTP Basic.
        api_keys: SHA-256 digests of keys for `Authorization: Bearer`.
        cors_allow_origins: origins of pages that may call the API; `*` for all.
        cors_allow_origins_regex: the same as a regular expression, empty for none.
        subpath: empty, or `/like/this`: the prefix under which a proxy serves us.
        max_body_bytes: of a request.
        finish_on_disconnect: whether a job goes on when its client has left.
        request_timeout: seconds after which a request is given up, 0 for never; clients may ask for less.
        encoders: threads that encode and save pictures.
        flags: what `cmd-flags` answers; names that sound like secrets are masked all the same.
        styles: templates that requests may name.
        a1111_quirks: answer bad requests with AUTOMATIC1111's status, and guess as it does where a name
            is not known; see `api.quirks`.
        image_urls: whether pictures that requests name by http(s) address are fetched.
        keeps_history: whether the latest infotext is kept in `params.txt`.
        on_saved: told of every saved picture's file, see `images.files`.
        webhooks: whether addresses that clients name are told when their jobs end.
        max_unfinished: requests that may be unfinished at once, those included that only decode pictures.
        max_pending_bytes: of bodies and pictures of all unfinished requests together.
        drain_seconds: how long unfinished requests are waited for when the server ends.
        job_results_bytes: memory for results that the job API keeps.
        job_results_seconds: how long it keeps a result at most.
        api_server_stop: whether clients may end the server.
        ending: how they do.
        status: tells how the node is, with points of its history after a time; None where that is not known.
        admin_key: SHA-256 of the operator's key, None where there is none.
        fetch_model: fetches models for operators; None where nobody may.
        closing: begins when the server is about to end, for connections that would stay open.
        door: whether new work is taken.
        logs_prompts: whether prompts are logged.
    """

    data_dir: Path
    version: str
    limits: Limits = field(default_factory=Limits)
    users: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    login_page: bool = False
    api_keys: tuple[bytes, ...] = field(default=(), repr=False)
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
    image_urls: bool = False
    keeps_history: bool = True
    on_saved: OnSaved | None = None
    webhooks: bool = False
    max_unfinished: int = 1000
    max_pending_bytes: int = 2_000_000_000
    drain_seconds: float = 0.0
    job_results_bytes: int = 256 * 10**6
    job_results_seconds: float = 3600.0
    api_server_stop: bool = False
    ending: Ending = field(default_factory=Ending)
    status: Callable[[float], Mapping[str, object]] | None = None
    admin_key: bytes | None = field(default=None, repr=False)
    fetch_model: FetchModel | None = None
    closing: Closing = field(default_factory=Closing)
    door: Door = field(default_factory=Door)
    logs_prompts: bool = False
