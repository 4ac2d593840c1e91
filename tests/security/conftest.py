"""What the tests of bundles and of the API are made with."""

from tests.api.conftest import serve
from tests.bundle.conftest import checkpoint, made

__all__ = ["checkpoint", "made", "serve"]
