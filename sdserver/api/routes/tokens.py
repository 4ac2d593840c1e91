"""How long a prompt is, in tokens."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from sdserver.api.errors import JsonResponse
from sdserver.api.json_body import JsonRoute
from sdserver.api.options import CHECKPOINT, Snapshot
from sdserver.api.services import Services
from sdserver.errors import InvalidField, UnknownCheckpoint
from sdserver.jobs.job import Emphasis
from sdserver.jobs.model import Embedding
from sdserver.prompt.comments import strip_comments
from sdserver.prompt.lexicon import Lexicon, Names
from sdserver.prompt.styles import apply_styles

if TYPE_CHECKING:
    from sdserver.bundle.clip_tokens import ClipTokens
    from sdserver.prompt.count import Counted

MAX_STYLES = 100


class TokensRequest(BaseModel):
    """POST /v1/tokens."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    prompt: str
    negative: bool = Field(False, description="whether it is a negative prompt: AND does not split it")
    styles: Annotated[list[str], Field(max_length=MAX_STYLES)] = Field(
        default_factory=list, description="names of styles that are laid over it"
    )
    steps: int = Field(20, ge=1, description="over which its editing is spread")


class TokensResponse(BaseModel):
    """Its answer."""

    tokens: int = Field(description="of the longest text that it shows; full chunks count as 75")
    limit: int = Field(description="what so many chunks hold")


def token_routes(services: Services) -> APIRouter:
    """The route /v1/tokens."""
    router = APIRouter(prefix="/v1", tags=["tokens"], route_class=JsonRoute)
    counting = _Counting(services)

    @router.post("/tokens", response_model=TokensResponse)
    async def tokens(body: TokensRequest) -> JsonResponse:
        """How many tokens a prompt has, as AUTOMATIC1111's counter counts them."""
        limits = services.config.limits
        if len(body.prompt) > limits.max_prompt:
            raise InvalidField("prompt", f"The prompt has more than {limits.max_prompt:,} characters.")
        if body.steps > limits.max_steps:
            raise InvalidField("steps", f"'steps' must be from 1 to {limits.max_steps}.")
        counted = await counting.count(body)
        return JsonResponse({"tokens": counted.tokens, "limit": counted.limit})

    return router


@dataclass(slots=True)
class _Counting:
    """Counts one prompt at a time, so that many who type leave threads to those who make pictures.

    Attributes:
        known: the vocabulary, once it is needed.
        named: the textual inversions' paths and vectors, and their names as token ids.
    """

    services: Services
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    known: "ClipTokens | None" = None
    named: tuple[Mapping[Embedding, int], Names] = field(default_factory=lambda: ({}, Names(())))

    async def count(self, body: TokensRequest) -> "Counted":
        """The prompt's length under the options as they are."""
        async with self.lock:
            return await self.services.in_thread(lambda: self._count(body))

    def _count(self, body: TokensRequest) -> "Counted":
        # They take long to import, and most servers' clients never ask.
        from sdserver.bundle.clip_tokens import ClipTokens  # noqa: PLC0415
        from sdserver.prompt.count import Counter  # noqa: PLC0415

        vocabulary = self.known = self.known or ClipTokens()
        options = self.services.options.snapshot()
        model = self.services.engine.model
        unescapes = model is not None and model.family == "sd2"

        def tokenize(texts: Sequence[str]) -> list[list[int]]:
            return vocabulary.ids(texts, unescapes=unescapes)

        counter = Counter(
            tokenize,
            emphasis=cast(Emphasis, options.text("emphasis")),
            comma_padding_backtrack=options.whole("comma_padding_backtrack"),
            factors=vocabulary.factors if options.flag("use_old_emphasis_implementation") else None,
            lexicon=self._lexicon(vocabulary),
            old_scheduling=options.flag("use_old_scheduling"),
        )
        return counter.count(self._text(body, options), body.steps, is_negative=body.negative)

    def _text(self, body: TokensRequest, options: Snapshot) -> str:
        sides = ("", body.prompt) if body.negative else (body.prompt, "")
        text = apply_styles(*sides, body.styles, self.services.config.styles)[body.negative]
        return strip_comments(text) if options.flag("enable_prompt_comments") else text

    def _lexicon(self, vocabulary: "ClipTokens") -> Lexicon:
        vectors = _embeddings(self.services)
        if self.named[0] != vectors:
            ids = vocabulary.ids([embedding.name for embedding in vectors])
            self.named = vectors, Names(zip(ids, vectors, strict=True))
        return Lexicon(self.named[1], vectors.get)


def _embeddings(services: Services) -> dict[Embedding, int]:
    """The textual inversions that the chosen checkpoint can use, and how many tokens each takes."""
    try:
        checkpoint = services.catalog.find(services.options.snapshot().text(CHECKPOINT)).filename
    except UnknownCheckpoint:
        checkpoint = ""
    loaded = services.networks.embeddings_for(checkpoint).loaded
    return {Embedding(file.name, file.path): facts.vectors for file, facts in loaded}
