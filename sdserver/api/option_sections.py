"""The sections of AUTOMATIC1111's settings page, and what an operator does not let clients change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sdserver.errors import SettingsFrozen

SECTIONS: Final = (
    ("samples_save", "saving-images", "Saving images/grids"),
    ("outdir_samples", "saving-paths", "Paths for saving"),
    ("save_to_dirs", "saving-to-dirs", "Saving to a directory"),
    ("ESRGAN_tile", "upscaling", "Upscaling"),
    ("face_restoration", "face-restoration", "Face restoration"),
    ("auto_launch_browser", "system", "System"),
    ("profiling_explanation", "profiler", "Profiler"),
    ("api_enable_requests", "API", "API"),
    ("unload_models_when_training", "training", "Training"),
    ("sd_model_checkpoint", "sd", "Stable Diffusion"),
    ("sdxl_crop_top", "sdxl", "Stable Diffusion XL"),
    ("sd3_enable_t5", "sd3", "Stable Diffusion 3"),
    ("sd_vae_explanation", "vae", "VAE"),
    ("inpainting_mask_weight", "img2img", "img2img"),
    ("cross_attention_optimization", "optimizations", "Optimizations"),
    ("auto_backcompat", "compatibility", "Compatibility"),
    ("interrogate_keep_models_in_memory", "interrogate", "Interrogate"),
    ("extra_networks_show_hidden_directories", "extra_networks", "Extra Networks"),
    ("keyedit_precision_attention", "ui_prompt_editing", "Prompt editing"),
    ("return_grid", "ui_gallery", "Gallery"),
    ("compact_prompt_box", "ui_alternatives", "UI alternatives"),
    ("localization", "ui", "User interface"),
    ("infotext_explanation", "infotext", "Infotext"),
    ("show_progressbar", "ui", "Live previews"),
    ("hide_samplers", "sampler-params", "Sampler parameters"),
    ("postprocessing_enable_in_main_ui", "postprocessing", "Postprocessing"),
    ("disabled_extensions", "", "Hidden options"),
    ("sd_lora", "extra_networks", "Extra Networks"),
    ("lora_functional", "compatibility", "Compatibility"),
    ("canvas_hotkey_zoom", "canvas_hotkey", "Canvas Hotkeys"),
    ("settings_in_ui", "ui", "User interface"),
    ("enable_prompt_comments", "sd", "Stable Diffusion"),
    ("hypertile_explanation", "hypertile", "Hypertile"),
    ("hypertile_explanation", "hypertile", "Hypertile"),
)
"""First option, key and name of each run of options that belong together, in the options' order."""

PATHS: Final = frozenset(
    {
        "samples_filename_pattern",
        "directories_filename_pattern",
        "outdir_samples",
        "outdir_txt2img_samples",
        "outdir_img2img_samples",
        "outdir_extras_samples",
        "outdir_grids",
        "outdir_txt2img_grids",
        "outdir_img2img_grids",
        "outdir_save",
        "outdir_init_images",
    }
)
"""Options that say where files go."""


def sections_of(keys: Iterable[str]) -> dict[str, frozenset[str]]:
    """Each option's section, by its key and by its name.

    Args:
        keys: all options in AUTOMATIC1111's order.
    """
    begins = {first: frozenset({key, name} - {""}) for first, key, name in SECTIONS}
    found: dict[str, frozenset[str]] = {}
    current: frozenset[str] = frozenset()
    for key in keys:
        current = begins.get(key, current)
        found[key] = current
    return found


def titles_of(keys: Iterable[str]) -> dict[str, str]:
    """Each option's section, by its name; arguments as of `sections_of`."""
    begins = {first: name for first, _, name in SECTIONS}
    found: dict[str, str] = {}
    current = ""
    for key in keys:
        current = begins.get(key, current)
        found[key] = current
    return found


@dataclass(frozen=True, slots=True)
class Freeze:
    """Options that clients may not change.

    Attributes:
        everything: none may be changed.
        sections: keys or names of sections.
        keys: of options.
        paths: those that say where files go.
    """

    everything: bool = False
    sections: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    paths: bool = False

    def check(self, changed: Iterable[str], sections: Mapping[str, frozenset[str]]) -> None:
        """See that none of the options is frozen.

        Args:
            changed: keys of options that are to get another value.
            sections: see `sections_of`.

        Raises:
            SettingsFrozen: one is.
        """
        for key in changed:
            if self.everything:
                raise SettingsFrozen("Changing settings is disabled: the server runs with --freeze-settings.")
            if self.sections & sections.get(key, frozenset()):
                raise _frozen(key, "--freeze-settings-in-sections")
            if key in self.keys:
                raise _frozen(key, "--freeze-specific-settings")
            if self.paths and key in PATHS:
                raise _frozen(key, "--hide-ui-dir-config")


NOTHING_FROZEN: Final = Freeze()


def _frozen(key: str, flag: str) -> SettingsFrozen:
    return SettingsFrozen(f"Changing the option {key!r} is disabled: the server runs with {flag}.")
