"""One source's settings as text, before they are converted: a flag line, the environment, a file."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from sdserver.settings.kinds import Kind


@dataclass(frozen=True, slots=True)
class Given:
    """One value as its source holds it.

    Attributes:
        source: how an error names the place: `--port`, `SDSERVER_PORT`, `port in config.toml`.
        base: the folder that a relative path starts from.
        single: the text is one value and is not split.
    """

    text: str
    source: str
    base: Path
    single: bool = False

    def texts(self, kind: Kind) -> list[str]:
        """The texts of the single values in it."""
        return [self.text] if self.single or kind.split is None else kind.split(self.text)


Layer = dict[str, list[Given]]


def suggestion(wrong: str, known: list[str], prefix: str = "") -> str:
    """`; did you mean X?` for the known name nearest to `wrong`, or nothing."""
    near = get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
