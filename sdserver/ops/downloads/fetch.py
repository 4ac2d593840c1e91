"""The download of a checkpoint: from the first source that works, once, into a folder of models."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event

from sdserver.errors import DownloadError
from sdserver.ops.downloads.content import check_safetensors, sha256_of
from sdserver.ops.downloads.index import FOLDER, Entry, Index
from sdserver.ops.downloads.limits import DownloadCancelled, Limits, Terms
from sdserver.ops.downloads.lock import sole_owner
from sdserver.ops.downloads.names import suggested_name
from sdserver.ops.downloads.part import Part
from sdserver.ops.downloads.progress import DownloadProgress
from sdserver.ops.downloads.sources import LocalSource, RemoteSource, Source, parse_source
from sdserver.ops.downloads.tidy import tidy
from sdserver.ops.downloads.transfer import Transfer

logger = logging.getLogger(__name__)


def fetch(
    sources: Sequence[str],
    directory: Path,
    *,
    sha256: str | None,
    tokens: Mapping[str, str],
    progress: Callable[[DownloadProgress], None],
    cancelled: Event,
    limits: Limits | None = None,
) -> Path:
    """Have a checkpoint's file. Blocks; run it in a thread.

    What needs no network comes first: a local source, or a file that was fetched before. Then the
    sources are tried in turn. What came of an unfinished file is kept and resumed by the next call.

    Args:
        sources: mirrors of one file, each as in `downloads.sources`; at least one.
        directory: where a fetched file goes; is made if need be. Working files live in `.downloads`.
        sha256: the digest the file must have, 64 hex digits; None or "" for no check.
        tokens: HF_TOKEN, CIVITAI_TOKEN, MODEL_URL_TOKEN, HF_ENDPOINT; other names are ignored.
        progress: told now and then how far it is, from this thread.
        cancelled: set it to end the download; it ends within `limits.silence`.
        limits: time-outs and sizes, time and chance.

    Returns:
        The file's absolute path; of a local source the given one, which may be a folder.

    Raises:
        DownloadError: no source works; one sentence per source names its host and what to do.
    """
    if not sources:
        raise DownloadError("No source is given for the model; set --model_url.")
    parsed = [parse_source(text, sha256, tokens) for text in sources]
    index = Index(directory.absolute())
    terms = Terms(progress, cancelled, limits or Limits())
    try:
        return _Fetch(index, terms).run(parsed)
    except OSError as error:
        # Python's errors name the path themselves.
        raise DownloadError(f"A file cannot be used ({error}); check its rights and the disk.") from error


class _Fetch:
    """One call of `fetch`."""

    def __init__(self, index: Index, terms: Terms) -> None:
        self._index = index
        self._terms = terms
        self._received = 0

    def run(self, sources: Sequence[Source]) -> Path:
        path = self._find(sources)
        for source in sources:
            if isinstance(source, RemoteSource):
                tidy(self._index.folder, source.key)
        return path

    def _find(self, sources: Sequence[Source]) -> Path:
        for source in sources:
            path = self._at_hand(source)
            if path is not None:
                return path
        failures: list[str] = []
        for source in sources:
            try:
                return self._use(source) if isinstance(source, LocalSource) else self._download(source)
            except DownloadCancelled:
                raise
            except DownloadError as error:
                failures.append(str(error))
                logger.warning("%s", error)
        raise DownloadError(" ".join(failures))

    def _at_hand(self, source: Source) -> Path | None:
        """What needs no network, if it is there and sound."""
        if isinstance(source, RemoteSource):
            return self._index.find(source.key, source.sha256)
        try:
            return self._use(source)
        except DownloadCancelled:
            raise
        except DownloadError:
            return None  # `run` comes to it again in its turn, and tells why

    def _use(self, source: LocalSource) -> Path:
        path = source.path
        if not path.exists():
            raise DownloadError(f"{path} does not exist; check the path of the model.")
        if path.is_file() and path.suffix == ".safetensors":
            try:
                check_safetensors(path)
            except DownloadError as error:
                raise DownloadError(f"{path} cannot be used: {error}") from error
        if source.sha256 and (path.is_dir() or sha256_of(path, self._terms.cancelled) != source.sha256):
            raise DownloadError(f"{path} has not the sha256 asked for; check the file and the digest.")
        return path

    def _download(self, source: RemoteSource) -> Path:
        folder, terms = self._index.folder, self._terms
        folder.mkdir(parents=True, exist_ok=True)
        logger.info("Fetching the checkpoint from %s.", source.host)
        with sole_owner(folder, source.key, terms):
            # Whoever held the lock before may have fetched it.
            found = self._index.find(source.key, source.sha256) or self._adopt(source)
            if found is not None:
                return found
            part = Part(folder, source.key, terms.limits.sync_every, terms.cancelled)
            transfer = Transfer(source, part, self._received, terms)
            try:
                transfer.run()
            finally:
                self._received = transfer.received
                part.close()
            return self._accept(source, part, transfer.expected)

    def _adopt(self, source: RemoteSource) -> Path | None:
        """A file of the source's name that somebody else put there, if it has the digest asked for."""
        path = self._index.directory / suggested_name(None, (source.url,), f"model-{source.key[:8]}")
        if source.sha256 is None or not path.is_file():
            return None
        if sha256_of(path, self._terms.cancelled) != source.sha256:
            return None
        self._index.add(source.key, Entry(path.name, path.stat().st_size, source.sha256, source.shown))
        return path

    def _accept(self, source: RemoteSource, part: Part, expected: str | None) -> Path:
        """Check what came and give it its place."""
        try:
            check_safetensors(part.path)
            if expected is not None and part.sha256 != expected:
                raise DownloadError(f"The file's sha256 is {part.sha256}, not {expected}.")
        except DownloadError as error:
            bad = part.quarantine()
            raise DownloadError(
                f"What {source.host} sent cannot be used: {error} It was put aside as {FOLDER}/{bad.name}; "
                "start again to fetch it anew, or check the address."
            ) from error
        name = part.notes.name if part.notes else f"model-{source.key[:8]}.safetensors"
        entry = Entry(name, part.size, part.sha256, source.shown)
        path = self._index.place(source.key, part.path, entry, self._terms.cancelled)
        part.settle()
        logger.info("Fetched %s.", path.name)
        return path
