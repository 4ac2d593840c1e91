"""All flags of AUTOMATIC1111 v1.10.1 and of its built-in extensions, and what each does here.

A flag either sets settings of ours, or asks for what holds here anyway, or has no effect, which the
operator is told in one line. None is refused, so a command line that started AUTOMATIC1111 starts this.
"""

from dataclasses import dataclass

ONE_OR_MORE = -1


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of AUTOMATIC1111.

    Attributes:
        name: without dashes before it, `-` inside.
        takes: number of values; `ONE_OR_MORE` reads up to the next flag.
        sets: our settings and their texts; `{}` stands for the flag's value.
        only_for: the values that set them; empty for all.
        note: what to tell the operator after the flag's name; empty for nothing.
    """

    name: str
    takes: int = 0
    sets: tuple[tuple[str, str], ...] = ()
    note: str = ""
    only_for: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """The name as it appears in `GET /sdapi/v1/cmd-flags`."""
        return self.name.replace("-", "_")


def _same(name: str, takes: int = 1) -> Flag:
    return Flag(name, takes, ((name.replace("-", "_"), "{}" if takes else "true"),))


def _held(name: str, takes: int = 0) -> Flag:
    return Flag(name, takes)


def _none(name: str, why: str, takes: int = 0) -> Flag:
    return Flag(name, takes, note=f"has no effect here: {why}.")


_LAUNCHER = "start.sh installs pinned packages once and checks for nothing else"
_EXTENSIONS = "this server has no extensions"
_GRADIO = "the page is not made with Gradio"
_TUNNEL = "this server opens no tunnel; put a proxy before it"
_PAGE = "the page has no such setting"
_ATTENTION = "attention is chosen by --attention auto, sdpa or xformers"
_OLD = "it had none in AUTOMATIC1111 v1.10.1 either"
_PRECISION = "--precision sets the number format of all networks"
_GFPGAN = "--gfpgan-models-path says where GFPGAN is"
_UPSCALER = "such upscalers are not used"
_PLACE = "this file's place is fixed"

_SERVING = (
    _same("listen", 0),
    _same("port"),
    Flag("server-name", 1, (("host", "{}"),)),
    _same("subpath"),
    _same("nowebui", 0),
    _held("api"),
    _same("api-auth"),
    _same("gradio-auth"),
    _same("gradio-auth-path"),
    _none("api-log", "what is logged is chosen by --log-level"),
    _same("api-server-stop", 0),
    _same("cors-allow-origins"),
    _same("cors-allow-origins-regex"),
    _same("tls-keyfile"),
    _same("tls-certfile"),
    _held("disable-tls-verify"),
    _same("timeout-keep-alive"),
    _none("share", _TUNNEL),
    _none("ngrok", _TUNNEL, 1),
    _none("ngrok-region", _TUNNEL, 1),
    _none("ngrok-options", _TUNNEL, 1),
    _none("add-stop-route", _OLD),
)

_MODELS = (
    _same("data-dir"),
    _same("models-dir"),
    Flag("ckpt", 1, (("checkpoint", "{}"),)),
    _same("ckpt-dir"),
    _same("config"),
    _held("no-download-sd-model"),
    _held("do-not-download-clip"),
    Flag(
        "disable-safe-unpickle",
        0,
        (("allow_pickle", "true"),),
        "means --allow-pickle; they are still read safely.",
    ),
    _same("vae-dir"),
    _same("vae-path"),
    _same("embeddings-dir"),
    _same("hypernetwork-dir"),
    _none("textual-inversion-templates-dir", "this server does not train", 1),
    _none("localizations-dir", _PAGE, 1),
    _none("gfpgan-dir", _GFPGAN, 1),
    _none("gfpgan-model", _GFPGAN, 1),
    _same("gfpgan-models-path"),
    _same("codeformer-models-path"),
    _none("unload-gfpgan", _OLD),
    _same("esrgan-models-path"),
    _none("bsrgan-models-path", _UPSCALER, 1),
    _same("realesrgan-models-path"),
    _none("dat-models-path", _UPSCALER, 1),
    _same("clip-models-path"),
    _none("skip-load-model-at-start", "the API opens once a checkpoint is loaded"),
    _none("ui-debug-mode", "the API opens once a checkpoint is loaded"),
    _none("disable-model-loading-ram-optimization", "loading has no such switch"),
    _none("no-hashing", "hashes have no switch"),
)

_DEVICE = (
    Flag("device-id", 1, (("device", "cuda:{}"),)),
    Flag(
        "use-cpu",
        ONE_OR_MORE,
        (("device", "cpu"),),
        "chooses for all networks at once, by all or sd; other names have no effect here.",
        frozenset({"all", "sd"}),
    ),
    Flag("use-ipex", 0, (("device", "xpu"),)),
    Flag("no-half", 0, (("precision", "fp32"),)),
    _same("precision"),
    _none("no-half-vae", _PRECISION),
    _none("upcast-sampling", _PRECISION),
    Flag("xformers", 0, (("attention", "xformers"),)),
    Flag("force-enable-xformers", 0, (("attention", "xformers"),)),
    Flag("xformers-flash-attention", 0, (("attention", "xformers"),)),
    Flag("opt-sdp-attention", 0, (("attention", "sdpa"),)),
    Flag("opt-sdp-no-mem-attention", 0, (("attention", "sdpa"),)),
    _none("opt-split-attention", _ATTENTION),
    _none("opt-split-attention-invokeai", _ATTENTION),
    _none("opt-split-attention-v1", _ATTENTION),
    _none("opt-sub-quad-attention", _ATTENTION),
    _none("sub-quad-q-chunk-size", _ATTENTION, 1),
    _none("sub-quad-kv-chunk-size", _ATTENTION, 1),
    _none("sub-quad-chunk-threshold", _ATTENTION, 1),
    _none("disable-opt-split-attention", _ATTENTION),
    _none("opt-channelslast", "the tensors' layout is chosen by the engine"),
    Flag("medvram", 0, (("offload", "models"),)),
    Flag("medvram-sdxl", 0, (("offload", "models-sdxl"),)),
    Flag("lowvram", 0, (("offload", "layers"),)),
    _held("lowram"),
    _none("always-batch-cond-uncond", _OLD),
    _same("disable-nan-check", 0),
)

_LAUNCH = (
    _held("f"),
    _held("skip-python-version-check"),
    _held("skip-torch-cuda-test"),
    _held("skip-prepare-environment"),
    _held("skip-install"),
    _held("skip-version-check"),
    _none("reinstall-xformers", _LAUNCHER),
    _none("reinstall-torch", _LAUNCHER),
    _none("update-check", _LAUNCHER),
    _none("update-all-extensions", _EXTENSIONS),
    _none("disable-all-extensions", _EXTENSIONS),
    _none("disable-extra-extensions", _EXTENSIONS),
    _none("enable-insecure-extension-access", _EXTENSIONS),
    _none("allow-code", "no code of a client is ever run"),
    _none("test-server", _LAUNCHER),
    _none("log-startup", "what is logged is chosen by --log-level"),
    _none("dump-sysinfo", "the maintenance port reports the server's state"),
    Flag("loglevel", 1, (("log_level", "{}"),)),
    _none("administrator", "the user is not checked"),
)

_INTERFACE = (
    _none("autolaunch", "no browser is opened"),
    _none("theme", _PAGE, 1),
    _none("use-textbox-seed", _PAGE),
    _none("ui-config-file", _PAGE, 1),
    _none("ui-settings-file", _PLACE, 1),
    _none("styles-file", _PLACE, 1),
    _same("hide-ui-dir-config", 0),
    _same("freeze-settings", 0),
    _same("freeze-settings-in-sections"),
    _same("freeze-specific-settings"),
    _none("gradio-debug", _GRADIO),
    _none("gradio-img2img-tool", _OLD, 1),
    _none("gradio-inpaint-tool", _OLD, 1),
    _none("gradio-allowed-path", "no files but the pictures made are served", 1),
    _none("gradio-queue", _OLD),
    _none("no-gradio-queue", _GRADIO),
    _none("no-progressbar-hiding", _PAGE),
    _none("disable-console-progressbars", "the log has no progress bars"),
    _none("enable-console-prompts", _OLD),
    _none("show-negative-prompt", _OLD),
    _none("max-batch-count", _OLD, 1),
    _none("deepdanbooru", _OLD),
    _none("unix-filenames-sanitization", "file names are safe on every system"),
    _none("filenames-max-length", "file names have a fixed greatest length", 1),
    _same("no-prompt-history", 0),
)

_BUILT_IN_EXTENSIONS = (
    _same("lora-dir"),
    _same("lyco-dir-backcompat"),
    _none("ldsr-models-path", _UPSCALER, 1),
    _none("scunet-models-path", _UPSCALER, 1),
    _none("swinir-models-path", _UPSCALER, 1),
)

FLAGS = {
    flag.key: flag
    for group in (_SERVING, _MODELS, _DEVICE, _LAUNCH, _INTERFACE, _BUILT_IN_EXTENSIONS)
    for flag in group
}
"""All 126 flags by the key that `GET /sdapi/v1/cmd-flags` shows them under."""
