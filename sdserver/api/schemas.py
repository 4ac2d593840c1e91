"""The wire: request and answer bodies, field for field as AUTOMATIC1111 1.10 has them."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from sdserver.api import coerce

Int = Annotated[int, BeforeValidator(coerce.to_int)]
Float = Annotated[float, BeforeValidator(coerce.to_float)]
Bool = Annotated[bool, BeforeValidator(coerce.to_bool)]
Str = Annotated[str, BeforeValidator(coerce.to_str)]
# What JSON may hold is checked by the validators; pydantic need not walk it again.
JsonList = Annotated[list[Any], BeforeValidator(coerce.to_list)]
JsonDict = Annotated[dict[str, Any], BeforeValidator(coerce.to_dict)]


class Txt2ImgRequest(BaseModel):
    """POST /sdapi/v1/txt2img: every field is optional, null means its default, unknown ones are ignored.

    The fields' order is that of the echo in `parameters`.
    """

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    prompt: Str = ""
    negative_prompt: Str = ""
    styles: Annotated[list[Str], BeforeValidator(coerce.to_list)] | None = None
    seed: Int = Field(-1, description="-1 is random; image k of the request has seed + k")
    subseed: Int = -1
    subseed_strength: Float = 0
    seed_resize_from_h: Int = -1
    seed_resize_from_w: Int = -1
    sampler_name: Str | None = Field(None, description="a sampler, also with its schedule: DPM++ 2M Karras")
    scheduler: Str | None = None
    batch_size: Int = 1
    n_iter: Int = 1
    steps: Int = 50
    cfg_scale: Float = 7.0
    width: Int = 512
    height: Int = 512
    restore_faces: Bool | None = None
    tiling: Bool | None = None
    do_not_save_samples: Bool = False
    do_not_save_grid: Bool = False
    eta: Float | None = None
    denoising_strength: Float | None = None
    s_min_uncond: Float | None = None
    s_churn: Float | None = None
    s_tmax: Float | None = None
    s_tmin: Float | None = None
    s_noise: Float | None = None
    override_settings: JsonDict | None = None
    override_settings_restore_afterwards: Bool = True
    refiner_checkpoint: Str | None = None
    refiner_switch_at: Float | None = None
    disable_extra_networks: Bool = False
    firstpass_image: Str | None = None
    comments: JsonDict | None = None
    enable_hr: Bool = False
    firstphase_width: Int = 0
    firstphase_height: Int = 0
    hr_scale: Float = 2.0
    hr_upscaler: Str | None = None
    hr_second_pass_steps: Int = 0
    hr_resize_x: Int = 0
    hr_resize_y: Int = 0
    hr_checkpoint_name: Str | None = None
    hr_sampler_name: Str | None = None
    hr_scheduler: Str | None = None
    hr_prompt: Str = ""
    hr_negative_prompt: Str = ""
    force_task_id: Str | None = None
    sampler_index: Str = Field("Euler", description="used where sampler_name is empty")
    script_name: Str | None = None
    script_args: JsonList = []
    send_images: Bool = True
    save_images: Bool = False
    alwayson_scripts: JsonDict = {}
    infotext: Str | None = None

    @model_validator(mode="before")
    @classmethod
    def null_is_default(cls, body: object) -> object:
        """Drop nulls, so that the defaults stand."""
        if isinstance(body, dict):
            return {key: value for key, value in body.items() if value is not None}
        return body


class Txt2ImgResponse(BaseModel):
    """The answer to txt2img."""

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
