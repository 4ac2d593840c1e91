"""A safe file name from what a server or a URL says it is."""

import unicodedata
from email.message import Message
from urllib.parse import unquote, urlsplit

SUFFIX = ".safetensors"
OTHER_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".sft", ".zip", ".part", ".bad", ".tmp")
ALLOWED_SIGNS = frozenset(" ._-+()[]=@")
LONGEST = 150  # bytes of the stem: file systems allow 255 for the whole name, and prefixes are added


def safe_name(raw: str, fallback: str) -> str:
    """`raw` as the name of a safetensors file in one folder, whatever it was.

    Directories are dropped; of the rest only letters, digits and a few signs stay, since names end
    in pages, prompts and shells; it never begins with a dot, dash or space, and ends in .safetensors.

    Args:
        raw: a hostile file name or path.
        fallback: the stem where nothing of `raw` is left.
    """
    last = unicodedata.normalize("NFC", raw).replace("\\", "/").rsplit("/", 1)[-1]
    lower = last.lower()
    for suffix in (SUFFIX, *OTHER_SUFFIXES):
        if lower.endswith(suffix):
            last = last[: -len(suffix)]
            break
    kept = "".join(char if char.isalnum() or char in ALLOWED_SIGNS else "_" for char in last)
    cut = kept.encode()[:LONGEST].decode(errors="ignore")
    return (cut.lstrip(" .-_").rstrip(" .") or fallback) + SUFFIX


def suggested_name(disposition: str | None, urls: tuple[str, ...], fallback: str) -> str:
    """The name for a download.

    Args:
        disposition: the answer's Content-Disposition header.
        urls: the address asked for and the one that answered, after redirects.
        fallback: a stem for when neither says a name.

    Returns:
        What the header says; else the first URL's last path segment that ends like a checkpoint;
        else that of the first URL; always made safe.
    """
    if disposition:
        message = Message()
        message["content-disposition"] = disposition
        named = message.get_filename("")
        if named.strip(" ./\\"):
            return safe_name(named, fallback)
    segments = [unquote(urlsplit(url).path.rsplit("/", 1)[-1], errors="replace") for url in urls]
    for segment in segments:
        if segment.lower().endswith((SUFFIX, *OTHER_SUFFIXES)):
            return safe_name(segment, fallback)
    return safe_name(segments[0] if segments else "", fallback)
