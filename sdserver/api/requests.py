"""The wire: request bodies for pictures, field for field as AUTOMATIC1111 1.10 has them.

Every field is optional, null means its default, unknown ones are ignored. The fields' order is that
of the echo in `parameters`, so a request is put together from parts, the last base class first.
"""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sdserver.api import coerce
from sdserver.api.wire import Bool, Float, Int, JsonDict, JsonList, Str

Strings = Annotated[list[Str], BeforeValidator(coerce.to_list)]


class CommonFields(BaseModel):
    """What both requests begin with."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    prompt: Str = ""
    negative_prompt: Str = ""
    styles: Strings | None = None
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
    refiner_switch_at: Float | None = Field(None, description="share of the noise schedule, 0 to 1")
    disable_extra_networks: Bool = False
    firstpass_image: Str | None = None
    comments: JsonDict | None = None

    @model_validator(mode="before")
    @classmethod
    def null_is_default(cls, body: object) -> object:
        """Drop nulls, so that the defaults stand."""
        if isinstance(body, dict):
            return {key: value for key, value in body.items() if value is not None}
        return body


class HiresFields(BaseModel):
    """The second pass of txt2img."""

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


class PictureFields(BaseModel):
    """The pictures that img2img begins with."""

    init_images: Strings | None = Field(None, description="base64, also as a data URI; one, or one per image")
    resize_mode: Int = Field(0, description="0 stretch, 1 crop, 2 fill, 3 resize the latent")
    image_cfg_scale: Float | None = None
    mask: Str | None = Field(None, description="base64; white is painted anew")
    mask_blur_x: Int = 4
    mask_blur_y: Int = 4
    mask_blur: Int | None = Field(None, description="sets both directions")
    mask_round: Bool = True
    inpainting_fill: Int = Field(0, description="0 fill, 1 original, 2 latent noise, 3 latent nothing")
    inpaint_full_res: Bool = Field(True, description="only the masked area, enlarged")
    inpaint_full_res_padding: Int = 0
    inpainting_mask_invert: Int = 0
    initial_noise_multiplier: Float | None = None
    latent_mask: Str | None = None


class TaskFields(BaseModel):
    """Names of the task and of the sampler's older field."""

    force_task_id: Str | None = None
    sampler_index: Str = Field("Euler", description="used where sampler_name is empty")


class EchoFields(BaseModel):
    """What of an img2img request is repeated."""

    include_init_images: Bool = Field(False, description="repeat init_images and mask in parameters")


class ScriptFields(BaseModel):
    """What both requests end with."""

    script_name: Str | None = None
    script_args: JsonList = []
    send_images: Bool = True
    save_images: Bool = False
    alwayson_scripts: JsonDict = {}
    infotext: Str | None = Field(None, description="fills the fields that were not sent")


class Txt2ImgRequest(ScriptFields, TaskFields, HiresFields, CommonFields):
    """POST /sdapi/v1/txt2img."""


class Img2ImgRequest(ScriptFields, EchoFields, TaskFields, PictureFields, CommonFields):
    """POST /sdapi/v1/img2img."""

    denoising_strength: Float | None = 0.75


Request = Txt2ImgRequest | Img2ImgRequest
