"""A linear layer of private weights over a shared input: one message, from the data owner to the model owner.

The input is x = x_0 + x_1, the weights W, both masked once: the model owner showed D = W - B for all images, the
data owner shows E = x_1 - A for this one, and B * A is shared by the dealer. Then

    W * x = W * (x_0 + E) + W * A = W * (x_0 + E)  +  D * A  +  B * A:

what the model owner can compute, what the data owner can, and their shares of the dealer's product, which make the
result's shares uniform anew.
"""

import numpy as np

from nescient_fl.mpc.inference.correlations import MODEL_OWNER, Hand, MaskedProduct
from nescient_fl.mpc.inference.fixed_point import Words, from_wire, to_wire, wire_bytes
from nescient_fl.mpc.inference.plan import Linear, State, after, linear_input
from nescient_fl.mpc.inference.ring_product import RingMatrix
from nescient_fl.mpc.inference.wire import Wire


def masked_product(number: int, step: Linear, state: State, images: int) -> MaskedProduct:
    """Return the correlation for step ``number`` of a plan, with ``state`` before it."""
    _, rows, columns = after(step, state).shape
    shape = (images, *linear_input(step, state))
    return MaskedProduct(number, shape, step.pads, step.kernel, step.stride, step.channels, rows * columns, step.ring)


def apply_weights(
    wire: Wire,
    hand: Hand,
    product: MaskedProduct,
    shares: Words | None,
    weights: RingMatrix,
    bias: Words | None,
) -> Words:
    """Return shares of the layer's output, [images, channels, positions], in the step's ring.

    ``shares`` [images, C, H, W] is None at the model owner when the whole input is the data owner's. ``weights``
    are the true ones at the model owner, the masked ones D at the data owner; ``bias`` [channels] is the model owner's.
    """
    mask, share = product.take(hand)
    if hand.rank == MODEL_OWNER:
        count = int(np.prod(product.shape))
        shown = from_wire(wire.receive(count * wire_bytes(product.ring)), product.shape, product.ring)
        known = shown if shares is None else shown + shares
        share = share + product.product(weights, known)
        assert bias is not None
        share += bias[:, None]
    else:
        assert mask is not None
        assert shares is not None
        wire.send(to_wire(shares - mask, product.ring))
        share = share + product.product(weights, mask)
    apart = share.reshape(product.channels, product.shape[0], product.positions)
    return np.ascontiguousarray(apart.transpose(1, 0, 2))
