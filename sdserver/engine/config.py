"""What an engine process is started with: picklable, torch-free."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Start-up facts of one engine process.

    Attributes:
        device: auto, cpu, cuda, cuda:N, mps or xpu.
        precision: auto is fp16 on a GPU and fp32 on a CPU.
        attention: auto, sdpa or xformers.
        threads: CPU threads, 0 for what a measurement finds best (in deterministic mode, the library's own
            choice).
        max_batch_rows: most rows of one UNet batch at 512x512; larger pictures get fewer.
        max_running: most images on their way at once.
        deterministic: pad every batch to the same rows, so that pictures do not depend on the load.
        allow_pickle: whether .ckpt files may be loaded (weights only).
        cached_checkpoints: how many checkpoints stay loaded.
        log_level: debug, info, warning, error or critical.
        offload: what takes turns on an accelerator: nothing, whole networks, those of SDXL alone, or the
            UNet's layers, too.
        compiled_dir: where compiled networks are kept, empty for not compiling any.
        cuda_graphs: whether UNet calls of few rows are recorded as CUDA graphs.
        approx_dir: where the small autoencoders for previews are, empty for nowhere.
        hang_limit: seconds of silence after which the engine is ended and started again; 0 finds them, see
            `engine.watchdog`.
        checks_numbers: whether a picture that is not made of numbers is a failure, or black.
    """

    device: str
    precision: Literal["auto", "fp16", "bf16", "fp32"]
    attention: Literal["auto", "sdpa", "xformers"]
    threads: int
    max_batch_rows: int
    max_running: int
    deterministic: bool
    allow_pickle: bool
    cached_checkpoints: int
    log_level: str
    approx_dir: str = ""
    offload: Literal["none", "models", "models-sdxl", "layers"] = "none"
    compiled_dir: str = ""
    cuda_graphs: bool = False
    hang_limit: float = 0.0
    checks_numbers: bool = True
