"""What `--model_url` may say, and what is fetched for it.

    /path/to/file, file:///path           used where it is
    https://host/path, http://...         fetched
    hf://org/repo/file@revision           from Hugging Face (or hf://org/repo@revision/file)
    https://huggingface.co/.../blob/...   the page's address: its file
    https://civitai.com/models/1?modelVersionId=2

Each may end in `#sha256=<64 hex digits>`. Tokens come from a mapping with environment's names:
HF_TOKEN, CIVITAI_TOKEN, and MODEL_URL_TOKEN for all other hosts; HF_ENDPOINT names a mirror.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from sdserver.errors import DownloadError

HF_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
CIVITAI_HOSTS = frozenset(
    f"{front}civitai.{end}" for front in ("", "www.") for end in ("com", "red", "green")
)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# Query parameters that are credentials, or change whenever an address is signed anew. The rest tells
# one file from another, so a name that may mean either (`key`) is not here.
SECRET_PARAMETER = re.compile(
    r"token|access_token|auth|authorization|api[-_]?key|password|signature|expires|policy|key-pair-id"
    r"|awsaccesskeyid|googleaccessid|x-(amz|goog|obs|cos|oss)-.*"
    r"|sig|sv|st|se|sr|sp|ss|srt|spr|sip|skoid|sktid|skt|ske|sks|skv",  # Azure's
    re.IGNORECASE,
)
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A file or folder that is used where it is."""

    path: Path
    sha256: str | None


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """A file to fetch.

    Attributes:
        url: what is asked for, secrets included.
        authorization: header for this URL's origin, and for no other.
        key: identifies the file across starts; 32 hex digits, the same for a newly signed address.
        shown: the address without user, query and fragment, for people.
        host: with the port where it is unusual.
        token_name: the environment variable that would hold this host's token.
        is_hugging_face: whether the answer's X-Linked-ETag tells the file's SHA-256.
    """

    url: str = field(repr=False)
    authorization: str | None = field(repr=False)
    key: str
    shown: str
    host: str
    sha256: str | None
    token_name: str
    is_hugging_face: bool

    @property
    def has_secret(self) -> bool:
        """Whether a redirect to plain http could betray something."""
        return self.authorization is not None


Source = LocalSource | RemoteSource


def parse_source(text: str, sha256: str | None, tokens: Mapping[str, str]) -> Source:
    """Read one source.

    Args:
        text: as in this module's docstring.
        sha256: the digest asked for beside the source; must agree with the fragment's.
        tokens: environment variables' names and values.

    Raises:
        DownloadError: the text is no source; the message holds no secret of it.
    """
    plain, digest = _split_digest(text.strip(), sha256)
    scheme, separator, rest = plain.partition("://")
    scheme = scheme.lower()
    if not separator:
        return LocalSource(Path(plain).absolute(), digest)
    if scheme == "file":
        return LocalSource(_file_path(rest), digest)
    if scheme == "hf":
        return _remote(_hub_url(rest, tokens), digest, tokens, from_hub=True)
    if scheme in {"https", "http"}:
        return _remote(plain.partition("#")[0], digest, tokens, from_hub=False)
    raise DownloadError(
        f"{scheme[:20]}:// cannot be fetched; give an https, http, hf or file address, or a path."
    )


def _split_digest(text: str, asked: str | None) -> tuple[str, str | None]:
    plain, separator, digest = text.partition("#sha256=")
    found = digest.lower() if separator else None
    asked = asked.lower() if asked else None
    for value in (found, asked):
        if value is not None and not DIGEST.fullmatch(value):
            raise DownloadError("A sha256 must have 64 hex digits; check the digest given for the model.")
    if found and asked and found != asked:
        raise DownloadError("The address and the settings name different sha256 digests; give only one.")
    if not plain:
        raise DownloadError("The address of the model is empty; give a path or an https address.")
    return plain, found or asked


def _file_path(rest: str) -> Path:
    host, slash, path = rest.partition("/")
    if host not in {"", "localhost"} or not slash:
        raise DownloadError("A file address has three slashes: file:///path/to/model.safetensors.")
    return Path("/" + unquote(path))


def _hub_url(rest: str, tokens: Mapping[str, str]) -> str:
    parts = rest.split("/")
    if len(parts) < 3 or not all(parts):
        raise DownloadError("A Hugging Face address reads hf://org/repo/file@revision; name a file.")
    org, repo, path = parts[0], parts[1], "/".join(parts[2:])
    repo, _, revision = repo.partition("@")
    if not revision:
        path, _, revision = path.partition("@")
    endpoint = tokens.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    return f"{endpoint}/{quote(org)}/{quote(repo)}/resolve/{quote(revision or 'main', safe='')}/{quote(path)}"


def _remote(url: str, sha256: str | None, tokens: Mapping[str, str], from_hub: bool) -> RemoteSource:
    parts, host = _split(url)
    name = parts.hostname or ""
    if name in HF_HOSTS:
        parts, host, from_hub = _hub_page(parts), "huggingface.co", True
    token_name = "HF_TOKEN" if from_hub else "MODEL_URL_TOKEN"
    authorization = _basic(parts)
    if name in CIVITAI_HOSTS:
        token_name = "CIVITAI_TOKEN"  # noqa: S105  # the variable's name
        parts, authorization = _civitai(parts, authorization)
    authorization = authorization or _bearer(token_name, tokens)
    if authorization and parts.scheme == "http" and name not in LOOPBACK and parts.username is None:
        raise DownloadError(f"{token_name} is not sent to {host} over plain http; give its https address.")
    parts = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
    return RemoteSource(
        url=parts.geturl(),
        authorization=authorization,
        key=_key(parts),
        shown=parts._replace(query="").geturl(),
        host=host,
        sha256=sha256,
        token_name=token_name,
        is_hugging_face=from_hub,
    )


def _split(url: str) -> tuple[SplitResult, str]:
    """The URL's parts and its host with the port."""
    try:
        parts = urlsplit(url)
        name, port = parts.hostname, parts.port
    except ValueError:
        raise DownloadError("The address of the model is not a valid URL; check it.") from None
    if not name or any(char.isspace() or not char.isprintable() for char in url):
        raise DownloadError("The address of the model is not a valid URL; check it for spaces.")
    shown = f"[{name}]" if ":" in name else name
    return parts, f"{shown}:{port}" if port else shown


def _hub_page(parts: SplitResult) -> SplitResult:
    """A Hugging Face page's address as its file's."""
    path = re.sub(r"^(/(?:datasets/|spaces/)?[^/]+/[^/]+)/(?:blob|raw)/", r"\1/resolve/", parts.path)
    if "/resolve/" not in path:
        raise DownloadError("huggingface.co: this names no file; open the file's page and copy its address.")
    netloc = f"{user}@huggingface.co" if (user := parts.netloc.rpartition("@")[0]) else "huggingface.co"
    return parts._replace(scheme="https", netloc=netloc, path=path)


def _civitai(parts: SplitResult, authorization: str | None) -> tuple[SplitResult, str | None]:
    """A Civitai page's address as its file's, with a token in the query moved to the header."""
    query = parse_qsl(parts.query)
    fields = dict(query)
    token = fields.get("token")
    path, query = parts.path, [(name, value) for name, value in query if name != "token"]
    if re.match(r"/models/\d+", path):
        version = fields.get("modelVersionId", "")
        if not version.isdecimal():
            raise DownloadError(
                f"{parts.hostname}: choose a version on the model's page, so that its address ends in "
                "?modelVersionId= and a number."
            )
        path = f"/api/download/models/{version}"
        query = [(name, value) for name, value in query if name != "modelVersionId"]
    if token:
        authorization = f"Bearer {_checked('the address', token)}"
    return parts._replace(scheme="https", path=path, query=urlencode(query)), authorization


def _basic(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _bearer(name: str, tokens: Mapping[str, str]) -> str | None:
    token = tokens.get(name, "").strip()
    return f"Bearer {_checked(name, token)}" if token else None


def _checked(name: str, token: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise DownloadError(f"The token in {name} holds spaces or unusual characters; copy it again.")
    return token


def _key(parts: SplitResult) -> str:
    query = [pair for pair in parse_qsl(parts.query, True) if not SECRET_PARAMETER.fullmatch(pair[0])]
    plain = parts._replace(netloc=parts.netloc.lower(), query=urlencode(sorted(query)))
    return hashlib.sha256(plain.geturl().encode()).hexdigest()[:32]
