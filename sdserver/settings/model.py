"""Every setting, once: its type, default, limits and what the help says about it."""

# ruff: noqa: RUF009 - `option` makes a dataclass field with metadata, not a shared default

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from sdserver.settings import kinds
from sdserver.settings.credential import ApiKey, Credential
from sdserver.settings.option import Option, option, public_value, shown_default

LOOPBACK = "127.0.0.1"
LOOPBACK_HOSTS = frozenset({LOOPBACK, "::1", "localhost"})

SERVING = "Ports and clients"
MODEL = "Checkpoint and folders"
DEVICE = "Device"
LIMITS = "Limits"
UPLOADS = "Uploads"
LOGGING = "Logging"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All start-up settings, resolved: no None stands for a default. `load.load` makes them.

    Read by the composition root alone, which hands each part the values it needs.
    """

    host: str = option(SERVING, kinds.host(), LOOPBACK, "Address the API and the page listen on.")
    port: int = option(
        SERVING, kinds.integer(0, 65535), 8000, "Port of the API and the page; 0 takes any free one."
    )
    listen: bool = option(
        SERVING, kinds.switch(), False, "Listen on all addresses: the same as --host 0.0.0.0."
    )
    maintenance_host: str = option(
        SERVING, kinds.host(), LOOPBACK, "Address of the maintenance port.", shown="as --host"
    )
    maintenance_port: int = option(
        SERVING, kinds.integer(0, 65535), 8001, "Port of health, state and metrics; 0 takes any free one."
    )
    nowebui: bool = option(SERVING, kinds.switch(), False, "Serve the API without the page.")
    subpath: str = option(
        SERVING, kinds.subpath(), "", "Path prefix under which a proxy serves this server.", shown="none"
    )
    api_auth: tuple[Credential, ...] = option(
        SERVING,
        kinds.credentials(),
        (),
        "Who may use the API and the page (HTTP Basic): user:password[,user2:password2]. "
        "Only a user's first colon separates. In the settings file a list may hold passwords with commas.",
        shown="everybody",
        secret=True,
    )
    api_auth_file: Path | None = option(
        SERVING, kinds.path(), None, "File with more such users, separated by commas or lines.", shown="none"
    )
    gradio_auth: tuple[Credential, ...] = option(
        SERVING,
        kinds.credentials(),
        (),
        "More such users, who may also log in at /login, which then is where browsers are sent.",
        shown="none",
        secret=True,
    )
    gradio_auth_path: Path | None = option(
        SERVING, kinds.path(), None, "File with more users of --gradio-auth.", shown="none"
    )
    api_keys_file: Path | None = option(
        SERVING,
        kinds.path(),
        None,
        "File of keys that clients may send as `Authorization: Bearer KEY`: a line each, a name and a blank "
        "may stand before the key.",
        shown="none",
    )
    api_server_stop: bool = option(
        SERVING,
        kinds.switch(),
        False,
        "Let clients end the server by /sdapi/v1/server-kill and -stop, and start it again by -restart.",
    )
    admin_key: ApiKey | None = option(
        SERVING,
        kinds.admin_key(),
        None,
        "Key for what the maintenance port lets operators do, sent as `Authorization: Bearer KEY`: at least "
        "16 visible ASCII characters. Without one it only tells.",
        shown="none",
        secret=True,
    )
    admin_key_file: Path | None = option(SERVING, kinds.path(), None, "File with that key.", shown="none")
    drain_delay: float = option(
        SERVING,
        kinds.seconds(3600),
        5.0,
        "After SIGTERM go on taking requests for so long, for balancers to see that this node leaves; not "
        "after Ctrl-C, nor where none has asked within the last minute whether it is ready.",
    )
    shutdown_timeout: float = option(
        SERVING,
        kinds.seconds(86_400),
        90.0,
        "How long what was accepted may take when the server ends; then it is interrupted.",
    )
    cors_allow_origins: tuple[str, ...] = option(
        SERVING,
        kinds.origins(),
        (),
        "Web origins whose pages may call the API, separated by commas.",
        shown="none",
    )
    cors_allow_origins_regex: str = option(
        SERVING, kinds.regex(), "", "The same as one regular expression.", shown="none"
    )
    allowed_hosts: tuple[str, ...] = option(
        SERVING,
        kinds.host_names(),
        (),
        "Names by which clients ask for this server, separated by commas: .example.com is all below that, "
        "* all. They are checked if some are given, or if it listens on this machine alone without a login.",
        shown="this machine's, addresses, and names without a dot",
    )
    forwarded_allow_ips: tuple[str, ...] = option(
        SERVING,
        kinds.networks(),
        ("127.0.0.1/32", "::1/128"),
        "Addresses of proxies, separated by commas, or *: their X-Forwarded-For and -Proto tell the client, "
        "and they may have any number of connections.",
        shown="127.0.0.1, ::1",
    )
    tls_certfile: Path | None = option(
        SERVING,
        kinds.path(),
        None,
        "Certificate (PEM) to serve HTTPS with, those that vouch for it after it; needs --tls-keyfile. "
        "SIGHUP has both read anew.",
        shown="none",
    )
    tls_keyfile: Path | None = option(
        SERVING, kinds.path(), None, "Private key (PEM) of the certificate, not encrypted.", shown="none"
    )
    timeout_keep_alive: int = option(
        SERVING, kinds.integer(0, 86_400, "SECONDS"), 30, "How long an idle connection stays open."
    )
    request_timeout: float = option(
        SERVING,
        kinds.seconds(86_400),
        0.0,
        "Give up a request after this time in queue and work; 0 is never. Clients may ask for less by "
        "X-Request-Timeout.",
    )
    finish_on_disconnect: bool = option(
        SERVING, kinds.switch(), False, "Finish a job whose client has left, instead of cancelling it."
    )
    image_urls: bool = option(
        SERVING,
        kinds.switch(),
        False,
        "Fetch pictures that requests name by http(s) address; never from private networks.",
    )
    webhooks: bool = option(
        SERVING, kinds.switch(), False, "Tell addresses that clients name when their jobs end."
    )
    freeze_settings: bool = option(
        SERVING, kinds.switch(), False, "Let nobody change options, by requests' overrides neither."
    )
    freeze_settings_in_sections: tuple[str, ...] = option(
        SERVING,
        kinds.names("SECTIONS"),
        (),
        "The same for the options of these sections of AUTOMATIC1111's settings page, separated by commas.",
        shown="none",
    )
    freeze_specific_settings: tuple[str, ...] = option(
        SERVING,
        kinds.names("OPTIONS"),
        (),
        "The same for these options, separated by commas.",
        shown="none",
    )
    hide_ui_dir_config: bool = option(
        SERVING, kinds.switch(), False, "The same for the options that say where pictures are saved."
    )
    no_prompt_history: bool = option(
        SERVING, kinds.switch(), False, "Do not keep the latest picture's parameters in params.txt."
    )
    a1111_quirks: bool = option(
        SERVING,
        kinds.switch(),
        False,
        "Answer bad requests with AUTOMATIC1111's status, and take names that do not exist as it does.",
    )

    data_dir: Path = option(
        MODEL,
        kinds.path(),
        Path(),
        "Folder with models/ and outputs/, laid out as AUTOMATIC1111's.",
        shown="the current folder if it has models/Stable-diffusion, else the one start.sh is in",
    )
    models_dir: Path = option(
        MODEL, kinds.path(), Path("models"), "Folder of the models.", shown="models in the data folder"
    )
    config: Path | None = option(
        MODEL,
        kinds.path(),
        None,
        "Settings file (TOML) to read instead of config.toml in the data folder.",
        shown="none",
    )
    checkpoint: Path | None = option(
        MODEL,
        kinds.path(),
        None,
        "Checkpoint to load at start (also --ckpt).",
        shown="the downloaded one, else the first found",
    )
    ckpt_dir: Path | None = option(
        MODEL, kinds.path(), None, "Another folder to look for checkpoints in.", shown="none"
    )
    vae_dir: Path | None = option(
        MODEL, kinds.path(), None, "Another folder to look for VAEs in.", shown="none"
    )
    vae_path: Path | None = option(
        MODEL, kinds.path(), None, "VAE to use for every picture, whatever is chosen.", shown="none"
    )
    lora_dir: Path | None = option(
        MODEL, kinds.path(), None, "Folder of the LoRAs.", shown="Lora in the folder of the models"
    )
    lyco_dir_backcompat: Path | None = option(
        MODEL, kinds.path(), None, "Another folder of LoRAs.", shown="LyCORIS in the folder of the models"
    )
    embeddings_dir: Path | None = option(
        MODEL,
        kinds.path(),
        None,
        "Folder of the embeddings (textual inversions).",
        shown="embeddings in the data folder and in that of the models",
    )
    hypernetwork_dir: Path | None = option(
        MODEL,
        kinds.path(),
        None,
        "Folder of the hypernetworks.",
        shown="hypernetworks in the folder of the models",
    )
    esrgan_models_path: Path | None = option(
        MODEL,
        kinds.path(),
        None,
        "Another folder to look for upscalers in, beside ESRGAN in that of the models.",
        shown="none",
    )
    gfpgan_models_path: Path | None = option(
        MODEL,
        kinds.path(),
        None,
        "Another folder to look for GFPGAN and what finds faces in, before GFPGAN in that of the models.",
        shown="none",
    )
    codeformer_models_path: Path | None = option(
        MODEL,
        kinds.path(),
        None,
        "Another folder to look for CodeFormer in, before Codeformer in that of the models.",
        shown="none",
    )
    realesrgan_models_path: Path | None = option(
        MODEL,
        kinds.path(),
        None,
        "Another folder to look for upscalers in, beside RealESRGAN in that of the models.",
        shown="none",
    )
    clip_models_path: Path | None = option(
        MODEL,
        kinds.path(),
        None,
        "Another folder to look for the CLIP network in that ranks words for captions.",
        shown="CLIP in the folder of the models, then ~/.cache/clip",
    )
    model_url: tuple[str, ...] = option(
        MODEL,
        kinds.sources(),
        (),
        "Where to download the checkpoint from at start: an address or a path. "
        "Given again, it names mirrors that are tried in turn.",
        shown="none",
        secret=True,
    )
    model_sha256: str = option(
        MODEL,
        kinds.matching("[0-9a-f]{64}", "64 hexadecimal digits", "HEX"),
        "",
        "What the downloaded checkpoint's SHA-256 must be.",
        shown="not checked",
    )
    allow_pickle: bool = option(
        MODEL,
        kinds.switch(),
        False,
        "Also load .ckpt, .pt, .pth and .bin files, which safer formats replace.",
    )

    device: str = option(
        DEVICE,
        kinds.matching(
            "auto|cpu|mps|(cuda|xpu)(:[0-9]{1,3})?", "auto, cpu, cuda, cuda:N, mps, xpu or xpu:N", "DEVICE"
        ),
        "auto",
        "Device to compute on: auto, cpu, cuda, cuda:N, mps, xpu or xpu:N.",
    )
    devices: tuple[str, ...] = option(
        DEVICE,
        kinds.devices(),
        (),
        "Several devices instead, with an engine process for each behind one queue: 0,1 for two GPUs, or "
        "names such as cuda:0,cpu.",
        shown="the one of --device",
    )
    precision: Literal["auto", "fp16", "bf16", "fp32"] = option(
        DEVICE,
        kinds.choice(
            "auto", "fp16", "bf16", "fp32", aliases={"full": "fp32", "half": "fp16", "autocast": "auto"}
        ),
        "auto",
        "Number format of the networks; AUTOMATIC1111's full, half and autocast mean fp32, fp16 and auto.",
    )
    attention: Literal["auto", "sdpa", "xformers"] = option(
        DEVICE, kinds.choice("auto", "sdpa", "xformers"), "auto", "Implementation of attention."
    )
    threads: int = option(
        DEVICE,
        kinds.integer(0, 1024),
        0,
        "Processor threads for computing; 0 measures how many are best, or, among several engines there, "
        "shares the processor.",
    )
    compile: bool = option(
        DEVICE,
        kinds.switch(),
        False,
        "Compile the UNet in the background, once per kind of network and machine; a C++ compiler is needed.",
    )
    cuda_graphs: bool = option(
        DEVICE, kinds.switch(), False, "Record UNet batches of few rows as CUDA graphs; needs memory."
    )
    offload: Literal["none", "models", "models-sdxl", "layers"] = option(
        DEVICE,
        kinds.choice("none", "models", "models-sdxl", "layers"),
        "none",
        "For accelerators of little memory: text encoders, UNet and VAE take turns there (models), those of "
        "SDXL alone (models-sdxl), or the UNet's layers, too (layers).",
    )
    deterministic: bool = option(
        DEVICE, kinds.switch(), False, "Make a seed's picture independent of the load, at some cost in speed."
    )
    max_batch_rows: int = option(
        DEVICE,
        kinds.integer(1, 1024),
        64,
        "Most UNet rows in one batch, of which a picture with guidance takes two. How many pay is measured; "
        "with --deterministic every batch has 16, or these if fewer.",
    )
    max_running: int = option(
        DEVICE,
        kinds.integer(1, 1024),
        64,
        "Most pictures that are worked on at once. Those of one size are no more than fill a batch.",
    )

    disable_nan_check: bool = option(
        DEVICE,
        kinds.switch(),
        False,
        "Make a picture that is not made of numbers black, instead of failing.",
    )
    hang_limit: float = option(
        DEVICE,
        kinds.seconds(86_400),
        0.0,
        "Start the engine process again after this silence while it has work; 0 is 60 s (120 s on a "
        "processor), or 20 times a usual batch if that is longer.",
    )

    max_queue: int = option(
        LIMITS,
        kinds.integer(1, 100_000),
        64,
        "Most unfinished requests, running ones included; further ones get 503.",
    )
    max_body_mb: int = option(
        LIMITS, kinds.integer(1, 10_000), 100, "Largest request body in MB (10^6 bytes)."
    )
    max_pending_mb: int = option(
        LIMITS,
        kinds.integer(1, 1_000_000),
        2000,
        "Memory for the bodies and pictures of all unfinished requests together, in MB (10^6 bytes); beyond "
        "it further ones get 503.",
    )
    max_connections: int = option(
        LIMITS,
        kinds.integer(1, 100_000),
        512,
        "Most connections to each port. Where there are more, those go that wait for a request; if none "
        "does, the new one gets 503.",
    )
    max_connections_per_address: int = option(
        LIMITS,
        kinds.integer(0, 100_000),
        64,
        "The same for one address that is not of --forwarded-allow-ips; 0 is any number.",
    )
    max_width: int = option(LIMITS, kinds.integer(64, 16_384), 2048, "Greatest width in pixels.")
    max_height: int = option(LIMITS, kinds.integer(64, 16_384), 2048, "Greatest height in pixels.")
    max_pixels: int = option(
        LIMITS, kinds.integer(4096, 2**28), 2048 * 2048, "Greatest width times height in pixels."
    )
    max_steps: int = option(LIMITS, kinds.integer(1, 10_000), 150, "Most sampling steps.")
    max_megapixel_steps: int = option(
        LIMITS,
        kinds.integer(0, 10**9),
        0,
        "Most of width times height times steps over all pictures of a request, in millions; 0 is what the "
        "other limits allow.",
    )
    max_images: int = option(
        LIMITS, kinds.integer(1, 10_000), 64, "Most pictures in one request (batch size times batch count)."
    )
    job_results_mb: int = option(
        LIMITS,
        kinds.integer(1, 100_000),
        256,
        "Memory for results that the job API keeps, in MB (10^6 bytes); the oldest go first.",
    )
    job_results_seconds: int = option(
        LIMITS, kinds.integer(1, 604_800, "SECONDS"), 3600, "How long the job API keeps a result at most."
    )

    upload_url: str = option(
        UPLOADS,
        kinds.upload_url(),
        "",
        "Where every saved picture is sent, too: s3://bucket/prefix, gs://bucket/prefix, "
        "az://container/prefix or a web address for PUT, in which {key} and {name} may stand.",
        shown="nowhere",
        secret=True,
    )
    upload_style: Literal["path", "virtual"] = option(
        UPLOADS,
        kinds.choice("path", "virtual"),
        "path",
        "Whether an S3 bucket stands in the address's path, or before its host.",
    )
    upload_spool_mb: int = option(
        UPLOADS,
        kinds.integer(1, 10_000_000),
        2000,
        "Most that may wait to be uploaded, in MB (10^6 bytes).",
    )
    upload_when_full: Literal["oldest", "newest"] = option(
        UPLOADS,
        kinds.choice("oldest", "newest"),
        "oldest",
        "Which pictures are not uploaded when more would wait.",
    )

    log_level: Literal["debug", "info", "warning", "error", "critical"] = option(
        LOGGING, kinds.choice("debug", "info", "warning", "error", "critical"), "warning", "What to log."
    )
    log_format: Literal["text", "json"] = option(
        LOGGING, kinds.choice("text", "json"), "text", "How: as text, or a JSON object a line."
    )
    access_log: bool = option(LOGGING, kinds.switch(), False, "Also log a line for every request.")
    log_prompts: bool = option(
        LOGGING, kinds.switch(), False, "Also log the prompts, which else are in no log."
    )

    api_keys: tuple[ApiKey, ...] = field(default=(), repr=False)
    """What `api_keys_file` holds, as digests."""

    notices: tuple[str, ...] = ()
    """What the operator should know of the options given, one line each; for the log."""

    @property
    def outputs_dir(self) -> Path:
        """Where saved pictures go."""
        return self.data_dir / "outputs"

    def public(self) -> dict[str, object]:
        """All settings as JSON values for reports: secrets as `***`, addresses without login and query."""
        return {one.name: public_value(getattr(self, one.name), one.secret) for one in options()}


def options() -> Iterator[Option]:
    """Every setting an operator may give, in the order of the help."""
    for item in fields(Settings):
        if "option" in item.metadata:
            group, kind, text, shown, secret = item.metadata["option"]
            yield Option(item.name, group, kind, text, shown or shown_default(item.default), secret)
