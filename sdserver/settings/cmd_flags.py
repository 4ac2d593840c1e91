"""The start-up flags as `GET /sdapi/v1/cmd-flags` of AUTOMATIC1111 v1.10.1 shows them."""

from sdserver.settings.a1111_flags import FLAGS
from sdserver.settings.model import Settings

_PRECISIONS = {"auto": "autocast", "fp16": "half", "bf16": "half", "fp32": "full"}
_DEFAULTS: dict[str, object] = {
    "filenames_max_length": 128,
    "gradio_queue": True,
    "max_batch_count": 16,
    "ngrok_options": {},
    "ngrok_region": "",
    "sub_quad_q_chunk_size": 1024,
}


def cmd_flags(settings: Settings) -> dict[str, object]:
    """All 126 flags: the settings in AUTOMATIC1111's words, its defaults for what has no meaning here.

    Unlike there, no password shows: `api_auth` and `gradio_auth` are `***` where users are set.
    """
    values: dict[str, object] = {key: None if flag.takes else False for key, flag in FLAGS.items()}
    values |= _DEFAULTS | _folders(settings) | _choices(settings)
    return values


def _folders(settings: Settings) -> dict[str, object]:
    data, models = settings.data_dir, settings.models_dir
    names = {
        "bsrgan_models_path": "BSRGAN",
        "codeformer_models_path": "Codeformer",
        "dat_models_path": "DAT",
        "esrgan_models_path": "ESRGAN",
        "gfpgan_dir": "GFPGAN",
        "gfpgan_models_path": "GFPGAN",
        "hypernetwork_dir": "hypernetworks",
        "ldsr_models_path": "LDSR",
        "lora_dir": "Lora",
        "lyco_dir_backcompat": "LyCORIS",
        "realesrgan_models_path": "RealESRGAN",
        "scunet_models_path": "ScuNET",
        "swinir_models_path": "SwinIR",
    }
    given = {
        "embeddings_dir": settings.embeddings_dir,
        "clip_models_path": settings.clip_models_path,
        "codeformer_models_path": settings.codeformer_models_path,
        "gfpgan_models_path": settings.gfpgan_models_path,
        "esrgan_models_path": settings.esrgan_models_path,
        "hypernetwork_dir": settings.hypernetwork_dir,
        "lora_dir": settings.lora_dir,
        "lyco_dir_backcompat": settings.lyco_dir_backcompat,
        "realesrgan_models_path": settings.realesrgan_models_path,
    }
    return {
        **{key: str(models / name) for key, name in names.items()},
        "embeddings_dir": str(data / "embeddings"),
        **{key: str(path) for key, path in given.items() if path},
        "data_dir": str(data),
        "gradio_allowed_path": [],
        "localizations_dir": str(data / "localizations"),
        "models_dir": str(models),
        "styles_file": [str(data / "styles.csv")],
        "textual_inversion_templates_dir": str(data / "textual_inversion_templates"),
        "ui_config_file": str(data / "ui-config.json"),
        "ui_settings_file": str(data / "config.json"),
    }


def _choices(settings: Settings) -> dict[str, object]:
    kind, _, index = settings.device.partition(":")
    texts = {
        "ckpt": settings.checkpoint,
        "ckpt_dir": settings.ckpt_dir,
        "config": settings.config,
        "cors_allow_origins": ",".join(settings.cors_allow_origins),
        "cors_allow_origins_regex": settings.cors_allow_origins_regex,
        "freeze_settings_in_sections": ",".join(settings.freeze_settings_in_sections),
        "freeze_specific_settings": ",".join(settings.freeze_specific_settings),
        "gradio_auth_path": settings.gradio_auth_path,
        "device_id": index if kind == "cuda" else "",
        "subpath": settings.subpath.lstrip("/"),
        "tls_certfile": settings.tls_certfile,
        "tls_keyfile": settings.tls_keyfile,
        "vae_dir": settings.vae_dir,
        "vae_path": settings.vae_path,
    }
    return {
        **{key: str(value) if value else None for key, value in texts.items()},
        "api": True,
        "api_auth": "***" if settings.api_auth else None,
        "gradio_auth": "***" if settings.gradio_auth else None,
        "api_server_stop": settings.api_server_stop,
        "disable_nan_check": settings.disable_nan_check,
        "disable_safe_unpickle": settings.allow_pickle,
        "freeze_settings": settings.freeze_settings,
        "hide_ui_dir_config": settings.hide_ui_dir_config,
        "listen": settings.listen,
        "lowvram": settings.offload == "layers",
        "medvram": settings.offload == "models",
        "medvram_sdxl": settings.offload == "models-sdxl",
        "loglevel": settings.log_level.upper(),
        "no_prompt_history": settings.no_prompt_history,
        "no_half": settings.precision == "fp32",
        "nowebui": settings.nowebui,
        "opt_sdp_attention": settings.attention == "sdpa",
        "port": settings.port,
        "precision": _PRECISIONS[settings.precision],
        "server_name": settings.host,
        "timeout_keep_alive": settings.timeout_keep_alive,
        "use_cpu": ["all"] if settings.device == "cpu" else [],
        "use_ipex": kind == "xpu",
        "xformers": settings.attention == "xformers",
    }
