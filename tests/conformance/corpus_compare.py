"""How equal is equal: an answer against a recorded one, difference by difference.

A picture may differ by one grey level anywhere, and by more in 0.1 % of its values. Times, random
seeds, versions and machine paths are left out.
"""

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD

from tests.conformance.corpus import Case

GREATEST_SHARE = 0.001
# A lossy file carries a difference of one grey level on to whole blocks.
LOSSY = frozenset({"JPEG", "WEBP"})
GREATEST_LOSSY, GREATEST_LOSSY_MEAN = 8, 0.1
TIMES = frozenset({"job_timestamp"})
UNORDERED = {"/sdapi/v1/sd-models": "model_name"}
MACHINE_NUMBERS = frozenset({"/sdapi/v1/memory"})
# What the process was started with: only the names are compared.
MACHINE_VALUES = frozenset({"/sdapi/v1/cmd-flags"})
PATH_KEYS = frozenset({"filename", "path", "config", "model_path"})
USER_COMMENT = 0x9286
SHORT = 160

Clean = Callable[[str], str]


@dataclass(frozen=True)
class Answer:
    """What the server answered.

    Attributes:
        status: HTTP status.
        text: the body.
    """

    status: int
    text: str

    @property
    def body(self) -> Any:
        """The body's JSON, or its text if it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return self.text

    @property
    def reason(self) -> str:
        """What an error says."""
        body = self.body
        if isinstance(body, dict):
            return str(body.get("detail") or body.get("errors") or body)
        return str(body)


@dataclass(frozen=True)
class Difference:
    """One thing that is not as recorded.

    Attributes:
        what: `status`, `count`, `pixels 0`, `text 0.parameters`, `info.clip_skip`, `body[0].name`, ...
        text: both values.
        greatest: the greatest difference of two values of a picture; 0 where no picture is compared.
    """

    what: str
    text: str
    greatest: int = 0

    def __str__(self) -> str:
        return f"{self.what}: {self.text}"


def compare(case: Case, answer: Answer) -> list[Difference]:
    """Everything about the answer that is not as recorded."""
    return list(_compare(case, answer))


def refused(case: Case, answer: Answer) -> bool:
    """Whether a request that was served there is answered here with a client's error or `not implemented`."""
    return case.status == 200 and (400 <= answer.status < 500 or answer.status == 501)


def _compare(case: Case, answer: Answer) -> Iterator[Difference]:
    stricter = case.status == 500 and 400 <= answer.status < 500
    if answer.status != case.status and not stricter:
        yield Difference("status", f"{answer.status} ({_short(answer.reason)}), not {case.status}")
        return
    wanted = case.recorded.get("response", case.recorded.get("body_text"))
    if case.status >= 400:
        yield from _compare_error(wanted, answer.body, same_status=answer.status == case.status)
    elif case.has_pictures:
        yield from _compare_pictures(case, answer.body)
    elif case.method != "HEAD":
        yield from compare_json("body", _prepared(case, wanted), _prepared(case, answer.body))


def _prepared(case: Case, body: Any) -> Any:
    """A body without the order and the numbers that are the machine's."""
    key = UNORDERED.get(case.endpoint)
    if key is not None and isinstance(body, list):
        return sorted(body, key=lambda item: str(item.get(key)))
    if case.endpoint in MACHINE_VALUES and isinstance(body, dict):
        return dict.fromkeys(body)
    return _without_numbers(body) if case.endpoint in MACHINE_NUMBERS else body


def _without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_numbers(item) for key, item in value.items()}
    return 0 if isinstance(value, int | float) else value


def _compare_error(wanted: Any, ours: Any, *, same_status: bool) -> Iterator[Difference]:
    """Errors have the same shape; where the status is stricter, any of the shapes there are."""
    if not isinstance(wanted, dict):
        return
    shapes = [_shape(wanted)]
    if not same_status:
        shapes += [_shape(dict.fromkeys(("error", "detail", "body", "errors"), "")), _shape({"detail": []})]
    if not isinstance(ours, dict) or _shape(ours) not in shapes:
        yield Difference("body", f"{_short(ours)}, not of the shape of {_short(wanted)}")
    elif not (ours.get("detail") or ours.get("errors")):
        yield Difference("body", "does not say what is wrong")
    elif same_status and _places(ours) != _places(wanted):
        yield Difference("body", f"blames {_places(ours)}, not {_places(wanted)}")


def _places(body: Mapping[str, Any]) -> list[Any]:
    """Which fields a 422 blames."""
    detail = body.get("detail")
    return [entry.get("loc") for entry in detail] if isinstance(detail, list) else []


def _shape(body: Mapping[str, Any]) -> dict[str, str]:
    return {key: type(value).__name__ for key, value in body.items()}


def _compare_pictures(case: Case, body: Any) -> Iterator[Difference]:
    recorded = case.recorded["response"]
    ours = list(body.get("images") or []) if isinstance(body, dict) else []
    if isinstance(body, dict) and not ours and body.get("image"):
        ours = [body["image"]]
    random = _random_keys(case)
    left_out = {"images", "image", "info"} if "info" in case.recorded else {"images", "image"}
    if isinstance(body, dict):
        yield from compare_json(
            "",
            _without(recorded, left_out),
            _without(body, left_out),
            clean=lambda text: _clean(text, random),
        )
        if "info" in case.recorded:
            yield from _compare_info(case, body.get("info"), random)
    if len(ours) != len(case.pictures):
        yield Difference("count", f"{len(ours)} pictures, not {len(case.pictures)}")
        return
    comparable = "seed" not in random and "pixels" not in random
    for index, (one, other) in enumerate(zip(ours, case.pictures, strict=True)):
        yield from compare_picture(index, base64.b64decode(one), other, random, pixels=comparable)


def _compare_info(case: Case, info: Any, random: frozenset[str]) -> Iterator[Difference]:
    if not isinstance(info, str):
        yield Difference("info", f"{type(info).__name__}, not text")
        return
    left_out = {"job_timestamp", "version"}
    for key in random & {"seed", "subseed"}:
        left_out |= {key, f"all_{key}s"}
    wanted, ours = json.loads(case.recorded["info_raw"]), _parsed(info)
    if not isinstance(wanted, dict) or not isinstance(ours, dict):
        yield from compare_json("info", wanted, ours, clean=lambda text: _clean(text, random))
        return
    yield from compare_json(
        "info", _without(wanted, left_out), _without(ours, left_out), clean=lambda text: _clean(text, random)
    )


def _random_keys(case: Case) -> frozenset[str]:
    """Which of `seed` and `subseed` were drawn at random."""
    request = case.request if isinstance(case.request, dict) else {}
    unset = (-1, None, "", -2)
    return frozenset(key for key in ("seed", "subseed") if request.get(key, -1) in unset)


def compare_picture(
    index: int, ours: bytes, wanted: bytes, random: frozenset[str], *, pixels: bool
) -> Iterator[Difference]:
    """The differences of two picture files.

    Args:
        index: the place of the picture in the answer, for the names of the differences.
        ours: the file's bytes.
        wanted: the recorded ones.
        random: which seeds are left out of the texts.
        pixels: whether the values are compared, beside format, size and texts.
    """
    with Image.open(io.BytesIO(ours)) as one, Image.open(io.BytesIO(wanted)) as other:
        for what in ("format", "mode", "size"):
            if getattr(one, what) != getattr(other, what):
                yield Difference(f"{what} {index}", f"{getattr(one, what)}, not {getattr(other, what)}")
        yield from compare_json(
            f"text {index}", _texts(other), _texts(one), clean=lambda text: _clean(text, random)
        )
        if pixels and one.size == other.size:
            greatest, share, mean = picture_distance(one, other)
            lossy = other.format in LOSSY and greatest <= GREATEST_LOSSY and mean <= GREATEST_LOSSY_MEAN
            if share > GREATEST_SHARE and not lossy:
                text = f"max {greatest}, {100 * share:.2f} % of values by more than 1, mean {mean:.3f}"
                yield Difference(f"pixels {index}", text, greatest)


def picture_distance(one: Image.Image, other: Image.Image) -> tuple[int, float, float]:
    """The greatest difference of two pictures, the share of values that differ by more than 1, the mean."""
    mode = "RGBA" if "A" in one.mode + other.mode else "RGB"
    apart = np.abs(np.asarray(one.convert(mode), np.int16) - np.asarray(other.convert(mode), np.int16))
    return int(apart.max()), float((apart > 1).mean()), float(apart.mean())


def _texts(picture: Image.Image) -> dict[str, str]:
    """The texts inside of a picture file: PNG's chunks and the comment of EXIF."""
    texts = {key: value for key, value in getattr(picture, "text", {}).items() if isinstance(value, str)}
    comment = picture.getexif().get_ifd(IFD.Exif).get(USER_COMMENT)
    if isinstance(comment, bytes):
        texts["exif"] = _comment(comment)
    return texts


def _comment(data: bytes) -> str:
    """The text of an EXIF UserComment, which begins with the name of its encoding."""
    encodings = {b"UNICODE\0": "utf-16-be", b"ASCII\0\0\0": "ascii"}
    return data[8:].decode(encodings.get(data[:8], "utf-8"), errors="replace").rstrip("\0")


def compare_json(name: str, wanted: Any, ours: Any, clean: Clean = str) -> Iterator[Difference]:
    """The differences of two JSON values, named by where they are.

    Args:
        name: of the place where the values are.
        wanted: as recorded.
        ours: as answered.
        clean: takes what cannot be compared out of a text.
    """
    if isinstance(wanted, dict) and isinstance(ours, dict):
        yield from _compare_objects(name, wanted, ours, clean)
    elif isinstance(wanted, list) and isinstance(ours, list):
        if len(wanted) != len(ours):
            yield Difference(name, f"{_short(ours)} ({len(ours)}), not {_short(wanted)} ({len(wanted)})")
            return
        for index, (one, other) in enumerate(zip(wanted, ours, strict=True)):
            yield from compare_json(f"{name}[{index}]", one, other, clean)
    elif not _equal(wanted, ours, clean):
        yield Difference(name, _both(ours, wanted))


def _compare_objects(
    name: str, wanted: Mapping[str, Any], ours: Mapping[str, Any], clean: Clean
) -> Iterator[Difference]:
    for key in [*wanted, *(key for key in ours if key not in wanted)]:
        place = f"{name}.{key}" if name else str(key)
        if key in TIMES:
            continue
        if key not in ours:
            yield Difference(place, f"missing, not {_short(wanted[key])}")
        elif key not in wanted:
            yield Difference(place, f"{_short(ours[key])}, not there")
        elif key in PATH_KEYS:
            yield from compare_json(place, _file_name(wanted[key]), _file_name(ours[key]), clean)
        else:
            yield from compare_json(place, wanted[key], ours[key], clean)


def _equal(wanted: Any, ours: Any, clean: Clean) -> bool:
    if isinstance(wanted, str) and isinstance(ours, str):
        if wanted.startswith("<base64 "):  # a picture that was sent, as the recordings name it
            digest = hashlib.sha256(ours.encode()).hexdigest()
            return wanted == f"<base64 sha256={digest} len={len(ours)}>"
        return clean(wanted) == clean(ours)
    if type(wanted) is not type(ours):
        return False
    if isinstance(wanted, int | float):
        return abs(wanted - ours) <= 1e-6 * max(1.0, abs(wanted))
    return bool(wanted == ours)


def _clean(text: str, random: frozenset[str]) -> str:
    """A text without versions, and without random seeds."""
    text = re.sub(r",? ?Version: [^,\n]+", "", text)
    if "seed" in random:
        text = re.sub(r"\bSeed: \d+", "Seed: ?", text)
    if random:
        text = re.sub(r"\bVariation seed: \d+", "Variation seed: ?", text)
    return text


def _without(body: Any, left_out: set[str]) -> Any:
    return {key: value for key, value in body.items() if key not in left_out}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _file_name(value: Any) -> Any:
    return re.split(r"[\\/]", value)[-1] if isinstance(value, str) else value


def _both(ours: Any, wanted: Any) -> str:
    """Both values; of long texts what is around the first difference."""
    if isinstance(ours, str) and isinstance(wanted, str):
        pairs = zip(ours, wanted, strict=False)
        same = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(wanted)))
        start = max(0, same - 40)
        return f"{_short(ours[start:])}, not {_short(wanted[start:])}"
    return f"{_short(ours)}, not {_short(wanted)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHORT else text[:SHORT] + "..."


def sequence_text(differences: Sequence[Difference], most: int = 12) -> str:
    """The differences in one line."""
    shown = "; ".join(str(difference) for difference in differences[:most])
    return shown + (f"; and {len(differences) - most} more" if len(differences) > most else "")
