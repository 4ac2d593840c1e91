"""The lists of LoRAs, embeddings, hypernetworks, VAEs and upscalers, and the look-up of their names.

A name that came from outside is only ever looked up among the scanned files; it is never made part
of a path.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sdserver.catalog import vaes
from sdserver.catalog.captioners import (
    Captioner,
    find_captioner,
    find_clip,
    find_labeller,
    read_word_lists,
)
from sdserver.catalog.embedding_picture import ENDINGS as PICTURE_ENDINGS
from sdserver.catalog.embeddings import EmbeddingFacts, carried_name, is_picture, read_embedding, text_width
from sdserver.catalog.face_restorers import NO_FACES, FaceFiles, FaceFolders, find_restorer, listed_restorers
from sdserver.catalog.file_facts import FileFacts, Stamp, stamp_of
from sdserver.catalog.hashes import HashCache, Part
from sdserver.catalog.loras import Loras, describe_lora
from sdserver.catalog.network_file import NetworkFile, NetworkKind
from sdserver.catalog.scan import VAE_ENDINGS, is_pickle, walk_files
from sdserver.catalog.upscalers import real_esrgan_name
from sdserver.errors import InvalidField, RequestError
from sdserver.jobs.job import FaceRestorerKind, Ranking

log = logging.getLogger(__name__)

_LORA_ENDINGS = (".safetensors", ".pt", ".ckpt")
_EMBEDDING_ENDINGS = (".safetensors", ".pt", ".bin", *PICTURE_ENDINGS)
_HYPERNETWORK_ENDINGS = (".pt",)
_VAE_FILE_ENDINGS = (".safetensors", ".pt", ".ckpt")
_UPSCALER_ENDINGS = (".safetensors", ".pt", ".pth")

_LONGEST_NAME_SHOWN = 100

Name = Callable[[Path], str]
"""What a file is listed as."""


@dataclass(frozen=True, slots=True)
class NetworkFolders:
    """Where A1111 keeps the files beside the checkpoints. Folders that are not there are empty.

    Attributes:
        lora, embeddings, hypernetworks, esrgan: of two files of one name, that of the later folder
            counts.
        real_esrgan: where Real-ESRGAN's files have names such as "R-ESRGAN 4x+".
        vae: any file in them is a VAE.
        beside_checkpoints: where only `*.vae.safetensors` (and `.vae.pt`, `.vae.ckpt`) are VAEs.
        vae_path: A1111's `--vae-path`: the VAE of every picture, if given.
        blip: where the network lies that describes pictures.
        danbooru: where the network lies that gives pictures labels.
        clip: where the network may lie that ranks words for captions; the first that has one counts.
        interrogate: where lists of such words may lie; likewise.
        faces: where those lie that restore faces.
    """

    lora: Sequence[Path] = ()
    embeddings: Sequence[Path] = ()
    hypernetworks: Sequence[Path] = ()
    esrgan: Sequence[Path] = ()
    real_esrgan: Sequence[Path] = ()
    vae: Sequence[Path] = ()
    beside_checkpoints: Sequence[Path] = ()
    vae_path: Path | None = None
    blip: Path | None = None
    danbooru: Path | None = None
    clip: Sequence[Path] = ()
    interrogate: Sequence[Path] = ()
    faces: FaceFolders = NO_FACES


@dataclass(frozen=True, slots=True)
class _Lists:
    loras: Loras
    embeddings: dict[str, NetworkFile]
    hypernetworks: dict[str, NetworkFile]
    vaes: dict[str, NetworkFile]
    upscalers: dict[str, NetworkFile]
    refused: frozenset[tuple[NetworkKind, str]]


@dataclass(frozen=True, slots=True)
class FittingEmbeddings:
    """Textual inversions with what their files say, by whether a checkpoint can use them."""

    loaded: tuple[tuple[NetworkFile, EmbeddingFacts], ...]
    skipped: tuple[tuple[NetworkFile, EmbeddingFacts], ...]

    @property
    def files(self) -> tuple[NetworkFile, ...]:
        """Those that can be used."""
        return tuple(file for file, _ in self.loaded)


class Networks:
    """The files that are there; scanned when made and at each `refresh`.

    Safe to use from several threads: the lists are replaced as a whole.

    Args:
        folders: where to look.
        hash_cache: the JSON file of known hashes; not the one of the checkpoints.
        allow_pickle: whether `.pt`, `.pth`, `.ckpt` and `.bin` files are listed. Where not, naming
            one is an error that says so.
    """

    def __init__(self, folders: NetworkFolders, hash_cache: Path, *, allow_pickle: bool = False) -> None:
        self._folders = folders
        self._allow_pickle = allow_pickle
        self._hashes = HashCache(hash_cache)
        self._refreshing = threading.Lock()
        self._described: dict[Path, tuple[Stamp, NetworkFile]] = {}
        self._facts = FileFacts(read_embedding)
        self._carried = FileFacts(carried_name)
        self._told: set[str] = set()
        self._widths = FileFacts(text_width)
        self._lists = self._scan()

    def refresh(self) -> None:
        """Scan the folders again. Headers of unchanged files are not read again. Blocks."""
        with self._refreshing:
            self._lists = self._scan()

    def loras(self) -> tuple[NetworkFile, ...]:
        """Every LoRA (LyCORIS included), in A1111's order."""
        return self._lists.loras.all

    def embeddings(self) -> tuple[NetworkFile, ...]:
        """Every textual inversion, by name without regard to case, whatever checkpoint it is for."""
        return tuple(self._lists.embeddings.values())

    def refused_embeddings(self) -> tuple[str, ...]:
        """Names of the textual inversions that are left out because pickles are not allowed, sorted.

        Not those that another file, which may be used, is named by.
        """
        lists = self._lists
        return tuple(
            sorted(
                name for kind, name in lists.refused if kind == "embedding" and name not in lists.embeddings
            )
        )

    def tell_refused(self, names: Iterable[str]) -> None:
        """Log that prompts name these left out textual inversions; each is told of once."""
        for name in names:
            if name not in self._told:
                self._told.add(name)
                log.warning(
                    "a prompt names the embedding %r, which has no effect, for it is a pickle: start the "
                    "server with --allow-pickle, or convert the file to safetensors",
                    name[:_LONGEST_NAME_SHOWN],
                )

    def hypernetworks(self) -> tuple[NetworkFile, ...]:
        """Every hypernetwork, by path."""
        return tuple(self._lists.hypernetworks.values())

    def vaes(self) -> tuple[NetworkFile, ...]:
        """Every VAE, in natural order of names."""
        return tuple(self._lists.vaes.values())

    def upscalers(self) -> tuple[NetworkFile, ...]:
        """Every upscaling network, by name without regard to case."""
        return tuple(self._lists.upscalers.values())

    def captioner(self) -> Captioner:
        """The network that describes pictures, looked for now: call it in a worker thread.

        Raises:
            MissingModel: there is none.
        """
        return find_captioner(self._folders.blip, allow_pickle=self._allow_pickle)

    def labeller(self) -> Path:
        """The network that gives pictures labels; see `captioner`."""
        return find_labeller(self._folders.danbooru, allow_pickle=self._allow_pickle)

    def ranking(self, skipped: Collection[str], limit: int, *, shows_scores: bool) -> Ranking | None:
        """What is added to captions; None where no words are there. Blocks: call it in a worker thread.

        Args:
            skipped: names of lists that are left out.
            limit: how many words of each list count, 0 for all.
            shows_scores: see `jobs.job.Ranking`.

        Raises:
            MissingModel: words are there, but no network to rank them by, or they cannot be read.
        """
        lists = read_word_lists(self._folders.interrogate, skipped, limit)
        if not lists:
            return None
        network = find_clip(self._folders.clip, allow_pickle=self._allow_pickle)
        return Ranking(str(network), lists, shows_scores)

    def face_restorers(self) -> list[FaceRestorerKind]:
        """The face restorers that can be used, looked for now: call it in a worker thread."""
        return listed_restorers(self._folders.faces, allow_pickle=self._allow_pickle)

    def face_restorer(self, kind: FaceRestorerKind) -> FaceFiles:
        """A face restorer's files, looked for now: call it in a worker thread.

        Raises:
            MissingModel: one of them is not there.
            RequestError: one of them is a pickle, and those are not allowed.
        """
        return find_restorer(kind, self._folders.faces, allow_pickle=self._allow_pickle)

    def embeddings_for(self, checkpoint: str) -> "FittingEmbeddings":
        """The textual inversions, parted by whether their vectors are as wide as a checkpoint's.

        Files that are no textual inversions are in neither part. Where the checkpoint does not tell
        its width, all fit. Reads headers of files that changed: call it in a worker thread.

        Args:
            checkpoint: absolute path of the file or folder.
        """
        width = self._widths.of(Path(checkpoint))
        described = [(file, self._facts.of(Path(file.path))) for file in self.embeddings()]
        known = [(file, facts) for file, facts in described if facts is not None]
        return FittingEmbeddings(
            tuple((file, facts) for file, facts in known if width in (None, facts.shape)),
            tuple((file, facts) for file, facts in known if width not in (None, facts.shape)),
        )

    def find_lora(self, name: str) -> NetworkFile | None:
        """The LoRA of that name or alias; None if there is none.

        As in A1111 an alias that two files share, and the words `none` and `Addams`, mean no alias.

        Raises:
            RequestError: it is a pickle, and those are not allowed.
        """
        return self._allowed("lora", name, self._lists.loras.find(name))

    def lora_of_hash(self, short_hash: str) -> NetworkFile | None:
        """The LoRA that infotexts name by this hash, among those whose hash is known."""
        known = (self.known(file) for file in self.loras())
        return next((file for file in known if file.short_hash == short_hash), None)

    def tag_name(self, file: NetworkFile, *, prefers_alias: bool) -> str:
        """The name to write into a tag for a LoRA: its alias, where that is wanted and means this file."""
        is_clear = self._lists.loras.find(file.alias) == file
        return file.alias if prefers_alias and is_clear else file.name

    def find_hypernetwork(self, name: str) -> NetworkFile | None:
        """The hypernetwork of that name; None if there is none. Raises as `find_lora`."""
        return self._allowed("hypernetwork", name, self._lists.hypernetworks.get(name))

    def find_vae(self, name: str) -> NetworkFile | None:
        """The VAE of that file name (its ending included); None if there is none. Raises as `find_lora`."""
        return self._allowed("vae", name, self._lists.vaes.get(name))

    def find_upscaler(self, name: str) -> NetworkFile | None:
        """The upscaling network of that name; None if there is none, so for "None", "Lanczos", "Nearest"
        and latent modes. Raises as `find_lora`.
        """
        return self._allowed("upscaler", name, self._lists.upscalers.get(name))

    def vae_for(self, checkpoint: str, chosen: str, *, overrides_per_model: bool) -> NetworkFile | None:
        """The VAE that a checkpoint runs with; None for its own.

        In A1111's order: `--vae-path`; the chosen one, if it beats what is beside the models; what the
        checkpoint's sidecar (`<stem>.json`, key "vae") names; the first file whose name begins with
        the checkpoint's stem (if the choice is "Automatic" or does not beat it); the chosen one.

        Args:
            checkpoint: absolute path of the file or folder.
            chosen: the option `sd_vae`: "Automatic", "None" or a name.
            overrides_per_model: the option `sd_vae_overrides_per_model_preferences`.

        Raises:
            InvalidField: it comes to the chosen one, and there is none of that name.
            RequestError: it is a pickle, and those are not allowed.
        """
        path = self._folders.vae_path
        if path is not None:
            return self._vae_of_path(path)
        is_automatic = chosen in vaes.AUTOMATIC
        if is_automatic or not overrides_per_model:
            preferred = vaes.sidecar_choice(Path(checkpoint))
            if preferred == vaes.NONE:
                return None
            near = self.find_vae(preferred) if preferred else None
            near = near or vaes.near_checkpoint(checkpoint, self.vaes())
            if near is not None or is_automatic:
                return near
        return None if chosen == vaes.NONE else self._chosen_vae(chosen)

    def hashed(self, file: NetworkFile) -> NetworkFile:
        """The file with its hash, which is computed if it is not known.

        Reads the file: call it in a worker thread. Raises OSError if it cannot be read.
        """
        if file.sha256 is not None:
            return file
        return replace(file, sha256=self._hashes.compute(Path(file.path), _hashed_part(file)))

    def known(self, file: NetworkFile) -> NetworkFile:
        """The file, with its hash if that was computed before. Takes microseconds."""
        if file.sha256 is not None:
            return file
        try:
            return replace(file, sha256=self._hashes.known(Path(file.path), _hashed_part(file)))
        except OSError:
            return file

    def _allowed(self, kind: NetworkKind, name: str, found: NetworkFile | None) -> NetworkFile | None:
        if found is None and (kind, name) in self._lists.refused:
            raise RequestError(
                f"The {kind} {name[:_LONGEST_NAME_SHOWN]!r} is a pickle: start the server with "
                "--allow-pickle, or convert the file to safetensors."
            )
        return found

    def _vae_of_path(self, path: Path) -> NetworkFile:
        absolute = path.absolute()
        return NetworkFile("vae", absolute.name, str(absolute), absolute.name)

    def _chosen_vae(self, name: str) -> NetworkFile:
        found = self.find_vae(name)
        if found is None:
            message = (
                f"There is no VAE {name[:_LONGEST_NAME_SHOWN]!r}; GET /sdapi/v1/sd-vae lists them. "
                "'Automatic' and 'None' may always be chosen."
            )
            raise InvalidField("sd_vae", message)
        return found

    def _scan(self) -> _Lists:
        folders = self._folders
        refused: set[tuple[NetworkKind, str]] = set()

        def found(
            kind: NetworkKind, places: Iterable[Path], endings: tuple[str, ...], name: Name = _stem
        ) -> Iterator[NetworkFile]:
            for path in (path for place in places for path in walk_files(place.absolute(), endings)):
                file = self._describe(kind, path, name)
                if file is not None and is_pickle(path) and not self._allow_pickle:
                    refused.add((kind, file.name))
                elif file is not None:
                    yield file

        upscalers = [
            *found("upscaler", folders.esrgan, _UPSCALER_ENDINGS),
            *found("upscaler", folders.real_esrgan, _UPSCALER_ENDINGS, real_esrgan_name),
        ]
        vae_files = [
            *found("vae", folders.beside_checkpoints, VAE_ENDINGS, _file_name),
            *found("vae", folders.vae, _VAE_FILE_ENDINGS, _file_name),
        ]
        hypernetworks = _by_name(found("hypernetwork", folders.hypernetworks, _HYPERNETWORK_ENDINGS))
        lists = _Lists(
            Loras(found("lora", folders.lora, _LORA_ENDINGS)),
            _by_name(found("embedding", folders.embeddings, _EMBEDDING_ENDINGS)),
            # A file None.pt would mean the same as none at all.
            {name: file for name, file in hypernetworks.items() if name != "None"},
            vaes.by_name(vae_files),
            _by_name(upscalers),
            frozenset(refused),
        )
        if refused:
            log.warning("%d files are left out, for they are pickles: give --allow-pickle", len(refused))
        return lists

    def _describe(self, kind: NetworkKind, path: Path, name: Name) -> NetworkFile | None:
        """The entry of a path; None if it is none of the kind (a picture that carries no embedding), or,
        with a warning, if the file cannot be read (any more).
        """
        try:
            status = path.stat()
            if kind == "embedding" and status.st_size == 0:
                return None
            if kind == "embedding" and is_picture(path):
                carried = self._carried.of(path)
                return None if carried is None else NetworkFile(kind, carried, str(path), carried)
            if kind != "lora":
                return NetworkFile(kind, name(path), str(path), name(path))
            stamp = stamp_of(status)
            before = self._described.get(path)
            if before is None or before[0] != stamp:
                before = stamp, describe_lora(path)
                self._described[path] = before
        except OSError as error:
            log.warning("the file %s is left out: %s", path, error)
            return None
        return before[1]


def _stem(path: Path) -> str:
    return path.stem


def _file_name(path: Path) -> str:
    return path.name


def _by_name(files: Iterable[NetworkFile]) -> dict[str, NetworkFile]:
    """By name without regard to case; of two of one name the later counts."""
    named = {file.name: file for file in files}
    return dict(sorted(named.items(), key=lambda item: item[0].lower()))


def _hashed_part(file: NetworkFile) -> Part:
    is_tensors = file.kind == "lora" and file.path.lower().endswith(".safetensors")
    return "tensors" if is_tensors else "file"
