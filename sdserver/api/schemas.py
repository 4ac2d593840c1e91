"""The wire: answer bodies, field for field as AUTOMATIC1111 1.10 has them."""

from typing import Any

from pydantic import BaseModel, Field, JsonValue, create_model

from sdserver.api.option_rules import defaults


class GenerationResponse(BaseModel):
    """The answer to txt2img and img2img."""

    images: list[str] = Field(
        description="raw base64, without a data: prefix; the grid first if there is one"
    )
    parameters: dict[str, JsonValue] = Field(description="the request with its defaults")
    info: str = Field(description="JSON as text: seeds, infotexts and what else was used")


class ProgressState(BaseModel):
    """The oldest request's state."""

    skipped: bool
    interrupted: bool
    stopping_generation: bool
    job: str
    job_count: int
    job_timestamp: str
    job_no: int
    sampling_step: int
    sampling_steps: int


class ProgressResponse(BaseModel):
    """GET /sdapi/v1/progress; idle is progress 0.0 and job_count 0."""

    progress: float
    eta_relative: float
    state: ProgressState
    current_image: str | None
    textinfo: str | None


class SamplerItem(BaseModel):
    """A sampler; option values are text."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(BaseModel):
    """A schedule."""

    name: str
    label: str
    aliases: list[str] | None
    default_rho: float
    need_inner_model: bool


class ModelItem(BaseModel):
    """A checkpoint; hashes are null until they are known."""

    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None


class StyleItem(BaseModel):
    """A prompt template."""

    name: str
    prompt: str | None
    negative_prompt: str | None


class ScriptsList(BaseModel):
    """Names of the scripts for each tab."""

    txt2img: list[str]
    img2img: list[str]


class ScriptArgument(BaseModel):
    """An argument of a script; null where there is no such thing."""

    label: str | None
    value: JsonValue
    minimum: float | None
    maximum: float | None
    step: float | None
    choices: list[str] | None


class ScriptInfo(BaseModel):
    """A script in one of the tabs; `args` are in the order of `script_args`."""

    name: str
    is_alwayson: bool
    is_img2img: bool
    args: list[ScriptArgument]


class UpscalerItem(BaseModel):
    """An upscaler; nothing but its name where it is no file."""

    name: str
    model_name: str | None
    model_path: str | None
    model_url: str | None
    scale: float | None


class LatentUpscalerItem(BaseModel):
    """A way to scale a latent."""

    name: str


class VaeItem(BaseModel):
    """A VAE's file."""

    model_name: str
    filename: str


class HypernetworkItem(BaseModel):
    """A hypernetwork's file."""

    name: str
    path: str | None


class LoraItem(BaseModel):
    """A LoRA's file with the metadata in it."""

    name: str
    alias: str
    path: str
    metadata: dict[str, JsonValue]


class RealEsrganItem(BaseModel):
    """A network of Real-ESRGAN's."""

    name: str
    path: str | None
    scale: int | None


class FaceRestorerItem(BaseModel):
    """A network that restores faces."""

    name: str
    cmd_dir: str | None


class EmbeddingItem(BaseModel):
    """A textual inversion."""

    step: int | None
    sd_checkpoint: str | None
    sd_checkpoint_name: str | None
    shape: int
    vectors: int


class EmbeddingsResponse(BaseModel):
    """Textual inversions that fit the chosen checkpoint, and those that do not, by name."""

    loaded: dict[str, EmbeddingItem]
    skipped: dict[str, EmbeddingItem]


_OPTIONS: dict[str, Any] = {key: (JsonValue, value) for key, value in defaults().items()}
OptionsResponse = create_model("OptionsResponse", __doc__="All options with their defaults.", **_OPTIONS)
"""GET /sdapi/v1/options, for the documentation alone."""
