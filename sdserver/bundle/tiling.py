"""Pictures that can be put side by side: convolutions that pad with the opposite border."""

from torch import nn


class Tiling:
    """Switches all two-dimensional convolutions of a network, which begin unswitched.

    Follows A1111: a convolution's own padding becomes circular. What is padded outside of it, as the
    autoencoder does before it halves the sides on the way in, stays zeros.

    Args:
        network: complete; convolutions that it is given later are not known.
    """

    def __init__(self, network: nn.Module) -> None:
        self._convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        self._is_on = False

    def switch(self, is_on: bool) -> None:
        """Have the batches from here on run with or without tiling; costs nothing if they do already."""
        if is_on == self._is_on:
            return
        self._is_on = is_on
        for convolution in self._convolutions:
            convolution.padding_mode = "circular" if is_on else "zeros"
