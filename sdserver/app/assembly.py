"""The parts of the front that take long to import: catalog, options, downloads, the API."""

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event

from starlette.types import ASGIApp

from sdserver.api.closing import Closing
from sdserver.api.config import ApiConfig, Ending, Limits
from sdserver.api.door import Door, HangUp
from sdserver.api.downloads import ModelKind
from sdserver.api.keeping import keeping_of
from sdserver.api.middleware import OnRequest
from sdserver.api.option_sections import Freeze
from sdserver.api.options import CHECKPOINT, CHECKPOINT_HASH, Options
from sdserver.api.server import create_app
from sdserver.app.uploads import uploader_of
from sdserver.catalog.catalog import Catalog
from sdserver.catalog.face_restorers import FaceFolders
from sdserver.catalog.networks import NetworkFolders, Networks
from sdserver.engine.client import EngineClient
from sdserver.errors import CheckpointError, UnknownCheckpoint
from sdserver.ops.downloads.fetch import fetch
from sdserver.ops.downloads.progress import DownloadProgress
from sdserver.prompt.styles import read_styles
from sdserver.settings.cmd_flags import cmd_flags
from sdserver.settings.model import Settings
from sdserver.settings.version import VERSION
from sdserver.web.site import documentation_routes, login_routes, page_routes

DEMO = "demo.safetensors"


class Assembly:
    """Everything of the front that hangs on the settings.

    Args:
        settings: resolved start-up settings.
        environ: where tokens for downloads and keys for uploads are found.

    Attributes:
        uploads: sends what is saved to a store, None where that is not wanted; not started yet.

    Raises:
        CheckpointError: --vae-path names a file that is not there.
        SettingsError: uploads are wanted and cannot be had.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._folder = settings.models_dir / "Stable-diffusion"
        self._catalog = self._scan([settings.checkpoint] if settings.checkpoint else [])
        self._options = Options(settings.data_dir / "config.json", _freeze(settings))
        self._networks = networks_of(settings)
        self._status: Callable[[float], Mapping[str, object]] | None = None
        self.uploads = uploader_of(settings, environ)

    def choose(self) -> Path:
        """The checkpoint to start with where none is to be downloaded.

        The one that --ckpt names, else the one chosen last time, else the first, where the demo
        comes after everything that the user put there.

        Raises:
            CheckpointError: there is none.
        """
        settings = self._settings
        if settings.checkpoint is not None:
            if not settings.checkpoint.exists():
                raise CheckpointError(f"{settings.checkpoint} does not exist; check --ckpt.")
            return settings.checkpoint
        chosen = self._options.snapshot().get(CHECKPOINT)
        if isinstance(chosen, str):
            try:
                return Path(self._catalog.find(chosen).filename)
            except UnknownCheckpoint:
                pass  # it was removed since; the first of the others stands in
        found = [Path(checkpoint.filename) for checkpoint in self._catalog.all()]
        if not found:
            raise CheckpointError(f"There is no checkpoint; put one into {self._folder} or give --model_url.")
        return min(found, key=lambda path: path.name == DEMO)

    def fetch(self, progress: Callable[[DownloadProgress], None], cancelled: Event) -> Path:
        """Have the checkpoint that --model_url names. Blocks.

        Raises:
            DownloadError: it cannot be had.
        """
        return fetch(
            self._settings.model_url,
            self._folder,
            sha256=self._settings.model_sha256 or None,
            tokens=self._environ,
            progress=progress,
            cancelled=cancelled,
        )

    def use(self, path: Path) -> None:
        """Make the loaded checkpoint the chosen one, with its hash. Reads the file once: blocks.

        Raises:
            CheckpointError: the file is of a kind that is not listed.
        """
        self._catalog = self._scan([path])
        wanted = str(path.absolute())
        known = next((known for known in self._catalog.all() if known.filename == wanted), None)
        if known is None:
            raise CheckpointError(
                f"{path} has no name of a checkpoint; give a .safetensors file or a folder."
            )
        checkpoint = self._catalog.hashed(known)
        self._options.apply({CHECKPOINT: checkpoint.title, CHECKPOINT_HASH: checkpoint.sha256 or ""})

    def sha256_of(self, path: str) -> str:
        """A checkpoint's hash as far as it is known; empty where it is not."""
        known = (one.sha256 for one in self._catalog.all() if one.filename == path)
        return next(known, None) or ""

    def follow_options(self, client: EngineClient) -> None:
        """Have the engine keep as much in memory as the options say, now and when they change."""
        self._options.follow(lambda options: client.keep(keeping_of(options)))

    def show_status(self, status: Callable[[float], Mapping[str, object]]) -> None:
        """Let clients see how the node is."""
        self._status = status

    def fetch_model(
        self,
        url: str,
        kind: ModelKind,
        sha256: str,
        progress: Callable[[DownloadProgress], None],
        cancelled: Event,
    ) -> Path:
        """Fetch a model into the folder of its kind, for an operator. Blocks.

        Raises:
            DownloadError: it cannot be had.
        """
        settings = self._settings
        folders: Mapping[ModelKind, Path] = {
            "checkpoint": self._folder,
            "vae": settings.models_dir / "VAE",
            "lora": settings.lora_dir or settings.models_dir / "Lora",
            "embedding": settings.embeddings_dir or settings.models_dir / "embeddings",
        }
        return fetch(
            [url],
            folders[kind],
            sha256=sha256 or None,
            tokens=self._environ,
            progress=progress,
            cancelled=cancelled,
        )

    def _scan(self, files: list[Path]) -> Catalog:
        """The catalog of the folders and of single files elsewhere."""
        settings = self._settings
        return Catalog(
            self._folder,
            settings.data_dir / ".cache" / "hashes.json",
            settings.ckpt_dir,
            files,
            allow_pickle=settings.allow_pickle,
        )

    def api(
        self, client: EngineClient, on_request: OnRequest, ending: Ending, closing: Closing, door: Door
    ) -> ASGIApp:
        """The application of the API's port.

        Args:
            client: where jobs go.
            on_request: told of every request.
            ending: how clients may end the server, if the settings let them.
            closing: begins when the server is about to end.
            door: whether new work is taken.
        """
        settings = self._settings
        limits = Limits(
            max_width=settings.max_width,
            max_height=settings.max_height,
            max_pixels=settings.max_pixels,
            max_steps=settings.max_steps,
            max_images=settings.max_images,
            max_work=settings.max_megapixel_steps * 10**6,
        )
        config = ApiConfig(
            data_dir=settings.data_dir,
            version=f"sdserver-{VERSION}",
            limits=limits,
            users=tuple((user.user, user.password) for user in (*settings.api_auth, *settings.gradio_auth)),
            login_page=bool(settings.gradio_auth),
            api_keys=tuple(key.digest for key in settings.api_keys),
            cors_allow_origins=settings.cors_allow_origins,
            cors_allow_origins_regex=settings.cors_allow_origins_regex,
            subpath=settings.subpath,
            max_body_bytes=settings.max_body_mb * 10**6,
            finish_on_disconnect=settings.finish_on_disconnect,
            request_timeout=settings.request_timeout,
            flags=cmd_flags(settings),
            styles=read_styles(settings.data_dir / "styles.csv"),
            a1111_quirks=settings.a1111_quirks,
            image_urls=settings.image_urls,
            keeps_history=not settings.no_prompt_history,
            on_saved=self.uploads.add if self.uploads else None,
            webhooks=settings.webhooks,
            max_unfinished=settings.max_queue,
            max_pending_bytes=settings.max_pending_mb * 10**6,
            logs_prompts=settings.log_prompts,
            drain_seconds=settings.shutdown_timeout,
            job_results_bytes=settings.job_results_mb * 10**6,
            job_results_seconds=settings.job_results_seconds,
            api_server_stop=settings.api_server_stop,
            ending=ending,
            status=self._status,
            admin_key=settings.admin_key.digest if settings.admin_key else None,
            fetch_model=self.fetch_model if settings.admin_key else None,
            closing=closing,
            door=door,
        )
        pages = [*([] if settings.nowebui else page_routes()), *documentation_routes(), *login_routes()]
        app = create_app(config, client, self._catalog, self._networks, self._options, on_request, pages)
        return HangUp(app, door)


def networks_of(settings: Settings) -> Networks:
    """The files beside the checkpoints, in A1111's folders and those that its flags name.

    Raises:
        CheckpointError: --vae-path names a file that is not there.
    """
    if settings.vae_path is not None and not settings.vae_path.is_file():
        raise CheckpointError(f"{settings.vae_path} does not exist; check --vae-path.")
    models, data = settings.models_dir, settings.data_dir
    embeddings = (
        [settings.embeddings_dir] if settings.embeddings_dir else [models / "embeddings", data / "embeddings"]
    )
    folders = NetworkFolders(
        lora=(settings.lora_dir or models / "Lora", settings.lyco_dir_backcompat or models / "LyCORIS"),
        embeddings=embeddings,
        hypernetworks=(settings.hypernetwork_dir or models / "hypernetworks",),
        esrgan=_given(models / "ESRGAN", settings.esrgan_models_path),
        real_esrgan=_given(models / "RealESRGAN", settings.realesrgan_models_path),
        vae=_given(models / "VAE", settings.vae_dir),
        beside_checkpoints=_given(models / "Stable-diffusion", settings.ckpt_dir),
        vae_path=settings.vae_path,
        blip=models / "BLIP",
        danbooru=models / "torch_deepdanbooru",
        clip=_given(settings.clip_models_path, models / "CLIP", _home("~/.cache/clip")),
        interrogate=(data / "interrogate", models / "interrogate"),
        faces=FaceFolders(
            gfpgan=_given(settings.gfpgan_models_path, models / "GFPGAN"),
            codeformer=_given(settings.codeformer_models_path, models / "Codeformer"),
        ),
    )
    return Networks(folders, data / ".cache" / "network-hashes.json", allow_pickle=settings.allow_pickle)


def _home(path: str) -> Path | None:
    """A path in the home folder of who runs the server; None where there is no such folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return None


def _given(*places: Path | None) -> tuple[Path, ...]:
    return tuple(place for place in places if place is not None)


def _freeze(settings: Settings) -> Freeze:
    """The options that clients may not change."""
    return Freeze(
        everything=settings.freeze_settings,
        sections=frozenset(settings.freeze_settings_in_sections),
        keys=frozenset(settings.freeze_specific_settings),
        paths=settings.hide_ui_dir_config,
    )
