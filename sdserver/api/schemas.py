"""The wire: answer bodies, field for field as AUTOMATIC1111 1.10 has them."""

from pydantic import BaseModel, Field, JsonValue


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
