"""Kinds of fields of request bodies, with the leniency that AUTOMATIC1111's clients lean on."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from sdserver.api import coerce

Int = Annotated[int, BeforeValidator(coerce.to_int)]
Float = Annotated[float, BeforeValidator(coerce.to_float)]
Bool = Annotated[bool, BeforeValidator(coerce.to_bool)]
Str = Annotated[str, BeforeValidator(coerce.to_str)]
# What JSON may hold is checked by the validators; pydantic need not walk it again.
JsonList = Annotated[list[Any], BeforeValidator(coerce.to_list)]
JsonDict = Annotated[dict[str, Any], BeforeValidator(coerce.to_dict)]
