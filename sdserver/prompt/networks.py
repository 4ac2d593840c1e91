"""Extra networks: tags such as `<lora:name:0.8>`, which name networks and are no part of the text."""

import re
from dataclasses import dataclass

_OPENING = re.compile(r"<(\w+):")


@dataclass(frozen=True, slots=True)
class NetworkTag:
    """One tag: `<kind:items[0]:items[1]:...>`, items as written."""

    kind: str
    items: tuple[str, ...]

    @property
    def positional(self) -> tuple[str, ...]:
        """The items without a name, in order; the first is the network's name."""
        return tuple(item for item in self.items if item.count("=") != 1)

    @property
    def named(self) -> dict[str, str]:
        """The items of the form `key=value`; of several with one key the last."""
        return dict(item.split("=") for item in self.items if item.count("=") == 1)


def extract_networks(prompt: str) -> tuple[str, tuple[NetworkTag, ...]]:
    """The prompt without its tags, and the tags in order. White space around a tag stays.

    Of any kind: `<word:anything but a closing angle>`. Takes time linear in the prompt's length.
    """
    pieces: list[str] = []
    tags: list[NetworkTag] = []
    kept = position = 0
    while (opening := _OPENING.search(prompt, position)) is not None:
        start, end = opening.end(), prompt.find(">", opening.end())
        if end < 0:
            break
        position = start
        if end > start:
            tags.append(NetworkTag(opening[1], tuple(prompt[start:end].split(":"))))
            pieces.append(prompt[kept : opening.start()])
            kept = position = end + 1
    return "".join([*pieces, prompt[kept:]]), tuple(tags)
