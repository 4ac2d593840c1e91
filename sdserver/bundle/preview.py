"""What latents look like to the small autoencoder TAESD, where its file is there."""

import logging
from typing import Any

from torch import Tensor

from sdserver.bundle.colours import Colours, cheap
from sdserver.bundle.small_vae import SmallVaes
from sdserver.bundle.vae import picture_of
from sdserver.errors import CheckpointError, MissingModel
from sdserver.jobs.events import Picture
from sdserver.jobs.model import Family

log = logging.getLogger(__name__)


class SmallLooks:
    """Previews by TAESD.

    Args:
        networks: decode.
    """

    def __init__(self, networks: SmallVaes) -> None:
        self._networks = networks
        self._told: set[str] = set()

    def decode(self, latents: Tensor, family: Family, colours: Colours) -> list[Picture | Exception]:
        """Pictures, one per latent (n, 4, h, w): cheap ones where the family's file cannot be used."""
        try:
            images: Any = self._networks.decoded(latents, family)
        except (MissingModel, CheckpointError, OSError) as error:
            self._tell(str(error))
            return cheap(latents, colours)
        return [picture_of(image) for image in images]

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            log.warning("previews by TAESD are made by the cheap method instead: %s", reason)
