"""Token merging and Hypertile: what the options say of self-attention."""

from sdserver.api.options import Snapshot
from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.jobs.job import Size
from sdserver.jobs.model import Attention, TileRule


def attention_of(request: Request, options: Snapshot, seed: int) -> Attention:
    """Of a request's first or only pass.

    Args:
        request: gives the pass's size.
        options: of this request.
        seed: of its first image: as in AUTOMATIC1111 all of its images have the same draws.
    """
    size = Size(request.width, request.height)
    return _attention(
        merging_of(request, options), options, size, seed, tiles=options.flag("hypertile_enable_unet")
    )


def second_attention(options: Snapshot, size: Size, seed: int) -> Attention:
    """Of the second pass.

    Args:
        options: of this request.
        size: of the enlarged picture, before its overhang is cut off.
        seed: of its first image.
    """
    tiles = options.flag("hypertile_enable_unet") or options.flag("hypertile_enable_unet_secondpass")
    return _attention(second_merging_of(options), options, size, seed, tiles=tiles)


def merging_of(request: Request, options: Snapshot) -> float:
    """Share of the tokens that the first pass merges. img2img has its own option; an override of the general
    one goes before it.
    """
    general = options.number("token_merging_ratio")
    if not isinstance(request, Img2ImgRequest):
        return general
    overridden = general if "token_merging_ratio" in (request.override_settings or {}) else 0.0
    return overridden or options.number("token_merging_ratio_img2img") or general


def second_merging_of(options: Snapshot) -> float:
    """Share of the tokens that the second pass merges."""
    return options.number("token_merging_ratio_hr") or options.number("token_merging_ratio")


def _attention(merging: float, options: Snapshot, size: Size, seed: int, *, tiles: bool) -> Attention:
    unet = unet_rule(options) if tiles else None
    vae = vae_rule(options) if options.flag("hypertile_enable_vae") else None
    if unet is None and vae is None:
        return Attention(merging)
    return Attention(merging, unet, vae, size.width, size.height, seed)


def unet_rule(options: Snapshot) -> TileRule:
    """How the UNet is tiled where it is."""
    return TileRule(
        max_depth=options.whole("hypertile_max_depth_unet"),
        max_tile=options.whole("hypertile_max_tile_unet"),
        swap=options.whole("hypertile_swap_size_unet"),
    )


def vae_rule(options: Snapshot) -> TileRule:
    """How the VAE's decoder is tiled where it is."""
    return TileRule(
        max_depth=options.whole("hypertile_max_depth_vae"),
        max_tile=options.whole("hypertile_max_tile_vae"),
        swap=options.whole("hypertile_swap_size_vae"),
    )
