"""What is done to a picture after it was painted: the counterpart of `images.img2img`."""

from dataclasses import dataclass, replace

from PIL import Image

from sdserver.images.colour import Levels, correct
from sdserver.images.masks import Box
from sdserver.images.overlay import composite, cut_out, lay_over, paste_back
from sdserver.images.pictures import to_image, to_picture
from sdserver.images.resize import COVER, Unfitted, resize, unfitted
from sdserver.images.soft import soft_mask
from sdserver.jobs.events import Picture


@dataclass(frozen=True, slots=True, eq=False)
class Finish:
    """How a painted picture becomes the answer.

    Attributes:
        colours: of the initial picture, in Lab, if the result is to have them.
        overlay: RGBA: what is laid upon the result, None for nothing.
        region: of the overlay: where the result belongs. It is not pasted there without an overlay.
        mask: L, of the size of the overlay: AUTOMATIC1111's mask for overlays, None without a mask.
        original: RGB, of the size of the overlay: what `softened` makes another overlay of, None where
            nothing is to be made of it.
        fitted, fitted_uncorrected: what something else than Lanczos made of `unfitted`.
    """

    colours: Levels | None = None
    overlay: Image.Image | None = None
    region: Box | None = None
    mask: Image.Image | None = None
    original: Image.Image | None = None
    fitted: Image.Image | None = None
    fitted_uncorrected: Image.Image | None = None

    def unfitted(self, painted: Picture, *, is_corrected: bool = True) -> Unfitted | None:
        """The painted part if it is to become larger in its place, None if not.

        Args:
            painted: the picture.
            is_corrected: with its colours corrected, or as they are.
        """
        if self.region is None or (self.overlay is None and self.original is None):
            return None
        image = to_image(painted)
        return unfitted(self._corrected(image) if is_corrected else image, COVER, *self.region.size)

    def softened(self, painted: Picture, new_parts: bytes) -> "Finish":
        """With the overlay and mask of soft inpainting, if it found what is new.

        Args:
            painted: the picture.
            new_parts: see `jobs.events.Finished`.
        """
        if self.original is None or not new_parts:
            return self
        size = (painted.width, painted.height)
        if self.region is None:
            mask = soft_mask(new_parts, size, self.original.size)
        else:
            mask = Image.new("L", self.original.size)
            part = resize(soft_mask(new_parts, size, size), COVER, *self.region.size)
            mask.paste(part, (self.region.left, self.region.top))
        return replace(self, overlay=cut_out(self.original, mask).convert("RGBA"), mask=mask)

    def apply(self, picture: Picture) -> Picture:
        """Correct the colours, put the picture where it belongs and the untouched rest upon it."""
        if self.colours is None and self.overlay is None:
            return picture
        corrected = self._corrected(to_image(picture))
        return to_picture(self._covered(self._placed(corrected, self.fitted)))

    def apply_without_correction(self, picture: Picture) -> Picture:
        """`apply` without the colour correction, for `save_images_before_color_correction`."""
        return to_picture(self._covered(self._placed(to_image(picture), self.fitted_uncorrected)))

    def mask_picture(self) -> Picture | None:
        """The mask, for `save_mask` and `return_mask`; None without a mask."""
        return None if self.mask is None else to_picture(self.mask)

    def mask_composite(self, picture: Picture) -> Image.Image | None:
        """The painted picture with all that is not masked transparent, RGBA; None without a mask.

        For `save_mask_composite` and `return_mask_composite`.

        Args:
            picture: as it was painted, before `apply`.
        """
        if self.mask is None:
            return None
        return composite(self._placed(self._corrected(to_image(picture)), self.fitted), self.mask)

    def _corrected(self, image: Image.Image) -> Image.Image:
        return image if self.colours is None else correct(image, self.colours)

    def _placed(self, image: Image.Image, fitted: Image.Image | None) -> Image.Image:
        if self.overlay is None or self.region is None:
            return image
        return paste_back(image, self.region, self.overlay.size, fitted)

    def _covered(self, image: Image.Image) -> Image.Image:
        return image if self.overlay is None else lay_over(image, self.overlay)
