"""The recorded answers of AUTOMATIC1111, as data: cases and the order they must be asked in.

A folder of recordings holds `checkpoints`, `inputs`, `styles.csv` and one folder per group; each JSON
file of a group that names an endpoint is a case. Its pictures lie beside it, as they were returned.
"""

import base64
import json
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

CHECKPOINT_OF_GROUP: Mapping[str, str] = {
    "sdxl": "tiny-sdxl",
    "sd2v": "tiny-sd2-v",
    "inpaint_model": "tiny-sd15-inpainting",
}
FIRST_CHECKPOINT = "tiny-sd15"

# Requests whose answers depend on those before them, or change what later ones see, in their order.
SEQUENCES: Mapping[str, Sequence[Sequence[str]]] = {
    "misc": (
        ("opt_set_jpg", "opt_jpg", "opt_set_webp", "opt_webp", "opt_set_bogus", "opt_bogus", "opt_set_png"),
        ("format_jpg_persist", "format_after", "format_restore"),
        (
            *("ckpt_override", "ckpt_after", "ckpt_override_norestore", "ckpt_norestore_after"),
            *("options_after_norestore", "ckpt_back", "ckpt_back_plain", "infotext_refiner"),
        ),
        ("unload-checkpoint", "reload-checkpoint", "after_reload"),
        ("create_embedding", "create_embedding_again", "embeddings_after", "created_emb"),
        ("create_hypernetwork", "hypernetworks_after", "hypernet"),
        ("create_hypernetwork2", "hypernetworks_after2", "hypernet2"),
        ("interrupt", "after_interrupt_progress"),
    ),
    "errors": (
        (
            "opt_jq_float",
            "opt_unknown",
            "opt_cmd_restricted",
            "opt_after",
            "opt_restricted_back",
            "opt_restore",
        ),
    ),
    "fresh_leak": (
        ("1_plain", "2_override_clip2", "3_plain_after", "4_override_clip3", "5_plain_after", "6_options"),
    ),
    "cache_quirk": (
        ("ti_repeat1", "ti_repeat2"),
        ("emph_repeat1", "emph_repeat2", "emphasis_then_seed"),
        ("lora_repeat1", "lora_repeat2"),
    ),
    "models_extra": (
        ("vae", "vae_after", "opt_vae", "vae_opt", "vae_opt_ckptb"),
        ("create_hn", "hn", "hn05"),
    ),
    "sdxl": (("_switch", "embeddings", "options", "sd-models", "_switch_back"),),
    "sd2v": (("_switch", "options", "sd-models", "_switch_back"),),
    "inpaint_model": (("_switch", "embeddings", "options", "_switch_back"),),
}
# Of bodies that are not JSON, where it was not said to be JSON.
CONTENT_TYPES: Mapping[str, str] = {"errors/t2i_form": "application/x-www-form-urlencoded"}
# Everything else is asked alone: it may change, or show, what others do at the time.
SIDE_BY_SIDE = frozenset(
    {
        "/sdapi/v1/txt2img",
        "/sdapi/v1/img2img",
        "/sdapi/v1/extra-single-image",
        "/sdapi/v1/extra-batch-images",
        "/sdapi/v1/png-info",
    }
)


@dataclass(frozen=True)
class Action:
    """What a client did while the case ran.

    Attributes:
        endpoint: what it posted to.
        step: the sampling step it had seen right before.
    """

    endpoint: str
    step: int


@dataclass(frozen=True)
class Case:
    """A recorded request and its answer.

    Attributes:
        root: the folder of recordings.
        recorded: the case's file.
    """

    root: Path
    recorded: Mapping[str, Any]

    @property
    def group(self) -> str:
        return str(self.recorded["group"])

    @property
    def name(self) -> str:
        return str(self.recorded["name"])

    @property
    def id(self) -> str:
        return f"{self.group}/{self.name}"

    @property
    def method(self) -> str:
        return str(self.recorded["method"])

    @property
    def endpoint(self) -> str:
        return str(self.recorded["endpoint"])

    @property
    def status(self) -> int:
        return int(self.recorded["status"])

    @property
    def request(self) -> Any:
        """The recorded body, with names of files in place of pictures."""
        return self.recorded["request"]

    @property
    def checkpoint(self) -> str:
        """The checkpoint that was chosen when the case was recorded."""
        return CHECKPOINT_OF_GROUP.get(self.group, FIRST_CHECKPOINT)

    @property
    def has_pictures(self) -> bool:
        return "images" in self.recorded

    @cached_property
    def pictures(self) -> list[bytes]:
        """The picture files of the answer."""
        folder = self.root / self.group
        return [(folder / image["file"]).read_bytes() for image in self.recorded.get("images") or []]

    @cached_property
    def action(self) -> Action | None:
        """What was done meanwhile, None if nothing."""
        path = self.root / self.group / f"{self.name}.progress.json"
        polls = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        for before, poll in pairwise(polls):
            if "action" in poll:
                return Action(poll["action"], before["state"]["sampling_step"])
        return None

    @property
    def side_by_side(self) -> bool:
        """Whether it neither changes nor shows what other requests do at the time."""
        return self.endpoint in SIDE_BY_SIDE and self.action is None

    def arguments(self) -> dict[str, Any]:
        """What `requests` needs to send the case again."""
        sent: dict[str, Any] = {"params": self.recorded["params"]}
        match self.request:
            case None:
                pass
            case {"__raw__": text}:
                sent |= {
                    "data": text,
                    "headers": {"Content-Type": CONTENT_TYPES.get(self.id, "application/json")},
                }
            case body:
                sent["json"] = self._with_files(body)
        return sent

    def _with_files(self, value: Any) -> Any:
        """The value with base64 in place of `@file:` and `@datauri:`."""
        match value:
            case dict():
                return {key: self._with_files(item) for key, item in value.items()}
            case list():
                return [self._with_files(item) for item in value]
            case str() if value.startswith(("@file:", "@datauri:")):
                kind, _, name = value.partition(":")
                text = base64.b64encode((self.root / name).read_bytes()).decode()
                mime = mimetypes.guess_type(name)[0]
                return text if kind == "@file" else f"data:{mime};base64,{text}"
            case _:
                return value


def read_cases(root: Path, groups: Sequence[str] = (), pattern: str = "*") -> list[Case]:
    """The cases of a folder by group and name.

    Args:
        root: the folder of recordings.
        groups: only of these groups; all if empty.
        pattern: only those whose name, or group and name with a `/` between, it matches.
    """
    return [case for case in _all(root, groups) if fnmatch(case.name, pattern) or fnmatch(case.id, pattern)]


def _all(root: Path, groups: Sequence[str]) -> Iterator[Case]:
    for path in sorted(root.glob("*/*.json")):
        if groups and path.parent.name not in groups:
            continue
        recorded = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(recorded, dict) and {"group", "endpoint", "request"} <= recorded.keys():
            yield Case(root, recorded)


def split(cases: Sequence[Case]) -> tuple[list[list[Case]], list[Case]]:
    """The cases as sequences to be asked one by one, and those that may be asked side by side."""
    left = {case.id: case for case in cases}
    sequences: list[list[Case]] = []
    for group in dict.fromkeys(case.group for case in cases):
        for names in SEQUENCES.get(group, ()):
            found = [left.pop(f"{group}/{name}", None) for name in names]
            sequences.append([case for case in found if case is not None])
    alone = [case for case in left.values() if not case.side_by_side]
    sequences = [[case] for case in alone] + [sequence for sequence in sequences if sequence]
    return sequences, [case for case in left.values() if case.side_by_side]
