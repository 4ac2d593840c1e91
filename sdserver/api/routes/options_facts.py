"""The options with all that a page of settings needs to know of them."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from sdserver.api.errors import JsonResponse
from sdserver.api.option_facts import Kind, facts_of
from sdserver.api.services import Services


class OptionFact(BaseModel):
    """One of AUTOMATIC1111's options."""

    key: str
    section: str = Field(description="of AUTOMATIC1111's page of settings")
    kind: Kind
    value: bool | int | float | str | list[str] | None
    default: bool | int | float | str | list[str] | None
    choices: list[str] | None = Field(
        description="what it may be, or what of it does something; null for all"
    )
    range: list[float] | None = Field(description="the least and the most")
    acts: bool = Field(description="whether it does anything here")
    about: str = Field(description="what it does, in a sentence; empty where it does nothing")
    read_only: bool = Field(description="whether clients may not change it")


class OptionFacts(BaseModel):
    """GET /v1/options."""

    options: list[OptionFact]


def option_fact_routes(services: Services) -> APIRouter:
    """The route /v1/options."""
    router = APIRouter(prefix="/v1", tags=["state"])

    @router.get("/options", response_model=OptionFacts)
    async def options() -> JsonResponse:
        """Every option with its kind, its choices and what it does; set by `POST /sdapi/v1/options`."""
        return JsonResponse({"options": facts_of(services)})

    return router
