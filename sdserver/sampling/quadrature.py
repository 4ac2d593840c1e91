"""Numerical integrals with QUADPACK's last digit."""

from collections.abc import Callable

# Distance from the centre in half intervals, and weight of each pair of nodes, in QUADPACK's order.
NODES = (
    (0.973906528517171720077964012084452, 0.032558162307964727478818972459390),
    (0.865063366688984510732096688423493, 0.075039674810919952767043140916190),
    (0.679409568299024406234327365114874, 0.109387158802297641899210590325805),
    (0.433395394129247190799265943165784, 0.134709217311473325928054001771707),
    (0.148874338981631210884826001129720, 0.147739104901338491374841515972068),
    (0.995657163025808080735527280689003, 0.011694638867371874278064396062192),
    (0.930157491355708226001207180059508, 0.054755896574351996031381300244580),
    (0.780817726586416897063717578345042, 0.093125454583697605535065465083366),
    (0.562757134668604683339000099272694, 0.123491976262065851077958109585166),
    (0.294392862701460198131126603103866, 0.142775938577060080797094273138717),
)
CENTRE_WEIGHT = 0.149445554002916905664936468389821


def integral(function: Callable[[float], float], start: float, end: float) -> float:
    """The integral of a function from `start` to `end`, exact for polynomials up to degree 31.

    The rule of Gauss and Kronrod with 21 nodes: Piessens et al. (1983), QUADPACK. scipy's `quad`, which
    k-diffusion integrates with, begins with it, and ends with it where the function is smooth.
    """
    centre, half = 0.5 * (start + end), 0.5 * (end - start)
    total = CENTRE_WEIGHT * function(centre)
    for node, weight in NODES:
        total += weight * (function(centre - half * node) + function(centre + half * node))
    return total * half
