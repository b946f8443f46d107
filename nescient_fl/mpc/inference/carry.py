"""The sign of a shared number: one carry, computed on bits side by side in one round and a round a level.

For shares a at the model owner and b at the data owner, the top bit of a + b is that of a, xor that of b, xor the
carry out of the bits below, which only depends on bits that each party knows of its own share. The carry is a
tree of generate and propagate pairs (Brent and Kung, "A regular layout for parallel adders", 1982): a run of bits
either makes a carry (g) or hands on the one from below (p).

Leaves are pairs of bits; nodes join up to four runs. Every product of several bits takes one round: each bit is
opened once, masked, and the dealer's products of masks serve for all terms of (e xor x)(e' xor x')... Leaves cost a
bit of traffic a bit, since each is one party's; nodes are xor-shared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np

from nescient_fl.mpc.inference.correlations import BOTH, DATA_OWNER, MODEL_OWNER, BitProducts, Hand, Planes
from nescient_fl.mpc.inference.fixed_point import Words, bit_planes, lanes
from nescient_fl.mpc.inference.wire import Wire

_ARITY = 4
_Set = frozenset[int]

_HIGH, _LOW, _THEIR_HIGH, _THEIR_LOW = range(4)
_LEAF_OWNERS = (MODEL_OWNER, MODEL_OWNER, DATA_OWNER, DATA_OWNER)
_LEAF_PRODUCTS = (
    frozenset((_HIGH, _THEIR_HIGH)),
    frozenset((_HIGH, _THEIR_LOW)),
    frozenset((_LOW, _THEIR_HIGH)),
    frozenset((_LOW, _THEIR_LOW)),
    frozenset((_HIGH, _LOW, _THEIR_LOW)),
    frozenset((_LOW, _THEIR_HIGH, _THEIR_LOW)),
)


@dataclass(frozen=True)
class Joint:
    """How runs of bits are joined: ``arity`` of them, lowest first; the lowest run of all needs no propagate.

    Inputs are numbered g_0 .. g_(arity-2), then the propagates that are needed: from p_0 on, or from p_1.
    """

    arity: int
    lowest: bool

    @property
    def inputs(self) -> int:
        return 2 * self.arity - 1 - self.lowest

    @property
    def targets(self) -> tuple[_Set, ...]:
        """The products wanted: g_i times all propagates above it, for every i, then the product of all propagates."""
        first = self.arity - 1 - self.lowest
        propagates = {run: first + run for run in range(self.lowest, self.arity)}
        made = [
            frozenset([run, *(propagates[above] for above in range(run + 1, self.arity))])
            for run in range(self.arity - 1)
        ]
        return tuple(made) if self.lowest else (*made, frozenset(propagates.values()))

    @property
    def products(self) -> tuple[_Set, ...]:
        """Every product of two or more masks that some target needs."""
        wanted = {
            part for target in self.targets for size in range(2, len(target) + 1) for part in _parts(target, size)
        }
        return tuple(sorted(wanted, key=lambda part: (len(part), sorted(part))))


@dataclass(frozen=True)
class Group:
    """Nodes of one level that are alike: ``first`` is the lowest run of the first, ``nodes`` how many there are."""

    joint: Joint
    first: int
    nodes: int


@dataclass(frozen=True)
class Circuit:
    """The carry out of the lower ``width - 1`` bits of ``count`` numbers at once; width is odd and at least 3."""

    count: int
    width: int

    def __post_init__(self) -> None:
        if self.width < 3 or self.width % 2 == 0:
            raise ValueError(f"a comparison's width is an odd number from 3 on, not {self.width}")

    @property
    def leaves(self) -> BitProducts:
        return BitProducts(_LEAF_OWNERS, _LEAF_PRODUCTS, (self.width - 1) // 2, lanes(self.count))

    @property
    def levels(self) -> tuple[tuple[Group, ...], ...]:
        return _levels((self.width - 1) // 2)

    def material(self, group: Group) -> BitProducts:
        joint = group.joint
        return BitProducts((BOTH,) * joint.inputs, joint.products, group.nodes, lanes(self.count))

    def correlations(self) -> Iterator[BitProducts]:
        """Yield what is taken, in order."""
        yield self.leaves
        for level in self.levels:
            for group in level:
                yield self.material(group)

    @property
    def rounds(self) -> int:
        return 1 + len(self.levels)


def sign(wire: Wire, hand: Hand, circuit: Circuit, shares: Words, extra: Planes | None = None) -> tuple[Planes, Planes]:
    """Return a share of the sign bits of shared numbers, [count], negative being 1: a plane [lanes].

    A number counts modulo 2^width, so one in [-2^(width-1), 2^(width-1)) is compared with 0. ``extra`` is a plane
    [lanes] to give the other party along with the first message; its own comes back as the second result.
    """
    own = bit_planes(shares, 0, circuit.width)
    generate, propagate, theirs = _leaves(wire, hand, circuit, own[:-1], extra)
    for level in circuit.levels:
        generate, propagate = _join(wire, hand, circuit, level, generate, propagate)
    return own[-1] ^ generate[0], theirs


def _leaves(
    wire: Wire, hand: Hand, circuit: Circuit, own: Planes, extra: Planes | None
) -> tuple[Planes, Planes, Planes]:
    """Return shares of generate and propagate of every pair of bits, [width // 2, lanes], and the other's extra."""
    masks, products = circuit.leaves.take(hand)
    first = _HIGH if hand.rank == MODEL_OWNER else _THEIR_HIGH
    mine_high, mine_low = own[1::2], own[0::2]
    mask_high, mask_low = masks[first], masks[first + 1]
    message = [mine_high ^ mask_high, mine_low ^ mask_low]
    pieces = wire.swap_planes([*message, extra[None]] if extra is not None else message)
    high, low = pieces[0], pieces[1]
    shown_high, shown_low = message
    highs, cross_high, cross_low, lows, left_pair, right_pair = products
    # For the model owner's bits a, shown as e = a ^ x, and the data owner's b, shown as f = b ^ y:
    #   generate = a1 b1 ^ a1 a0 b0 ^ a0 b1 b0, propagate = (a1 ^ b1)(a0 ^ b0),
    # and a0 b0, say, is a0 f0 (known to one) ^ e0 y0 (known to the other) ^ x0 y0 (shared).
    if hand.rank == MODEL_OWNER:
        generate = mine_high & high
        generate ^= mine_high & mine_low & low
        generate ^= mask_low & high & low
        generate ^= highs ^ (shown_high & lows) ^ (shown_low & cross_high) ^ left_pair
        generate ^= (high & lows) ^ (low & cross_low) ^ right_pair
        propagate = (mine_high & mine_low) ^ (mine_high & low) ^ (mine_low & high)
    else:
        generate = high & mask_high
        generate ^= high & low & mask_low
        generate ^= low & mine_high & mine_low
        generate ^= highs ^ (high & lows) ^ (low & cross_high) ^ left_pair
        generate ^= (shown_high & lows) ^ (shown_low & cross_low) ^ right_pair
        propagate = (mine_high & mine_low) ^ (high & mask_low) ^ (low & mask_high)
    propagate ^= cross_high ^ cross_low
    theirs = pieces[2][0] if extra is not None else np.zeros(0, np.uint64)
    return generate, propagate, theirs


def _join(
    wire: Wire, hand: Hand, circuit: Circuit, level: Sequence[Group], generate: Planes, propagate: Planes
) -> tuple[Planes, Planes]:
    """Join runs, [runs, lanes] each, into those of the next level, in one round."""
    taken = [circuit.material(group).take(hand) for group in level]
    inputs = [_inputs(group, generate, propagate) for group in level]
    shown = [value ^ masks for value, (masks, _) in zip(inputs, taken, strict=True)]
    others = wire.swap_planes(shown)
    made, kept = [], []
    for group, mine, theirs, (masks, products) in zip(level, shown, others, taken, strict=True):
        results = _products(group.joint, hand.rank, mine ^ theirs, masks, products)
        top = slice(group.first + group.joint.arity - 1, None, group.joint.arity)
        carried = generate[top][: group.nodes].copy()
        for result in results[: group.joint.arity - 1]:
            carried ^= result
        made.append(carried)
        kept.append(np.zeros_like(carried) if group.joint.lowest else results[-1])
    used = sum(group.joint.arity * group.nodes for group in level)
    return np.concatenate([*made, generate[used:]]), np.concatenate([*kept, propagate[used:]])


def _inputs(group: Group, generate: Planes, propagate: Planes) -> Planes:
    """Return the planes of a group that are opened, [inputs, nodes, lanes]."""
    arity, lowest = group.joint.arity, group.joint.lowest
    rows = slice(group.first, group.first + arity * group.nodes)
    runs = generate[rows].reshape(group.nodes, arity, -1)
    passed = propagate[rows].reshape(group.nodes, arity, -1)
    return np.concatenate([runs[:, :-1], passed[:, lowest:]], axis=1).transpose(1, 0, 2)


def _products(joint: Joint, rank: int, opened: Planes, masks: Planes, products: Planes) -> list[Planes]:
    """Return shares of each target: over its subsets S, the xor of opened bits outside S times S's mask product."""
    places = {part: number for number, part in enumerate(joint.products)}
    public: dict[_Set, Planes] = {}

    def outside(part: _Set) -> Planes:
        if part not in public:
            one = max(part)
            public[part] = opened[one] if len(part) == 1 else outside(part - {one}) & opened[one]
        return public[part]

    results = []
    for target in joint.targets:
        result = products[places[target]].copy()
        for size in range(1, len(target)):
            for part in _parts(target, size):
                share = masks[min(part)] if size == 1 else products[places[part]]
                result ^= share & outside(target - part)
        if rank == MODEL_OWNER:
            result ^= outside(target)
        results.append(result)
    return results


def _parts(whole: _Set, size: int) -> Iterator[_Set]:
    return (frozenset(part) for part in combinations(sorted(whole), size))


@cache
def _levels(runs: int) -> tuple[tuple[Group, ...], ...]:
    """Return the groups of every level, lowest runs first; a run left over alone waits for the next level."""
    levels = []
    while runs > 1:
        whole, rest = divmod(runs, _ARITY)
        groups = [Group(Joint(_ARITY, True), 0, 1)] if whole else []
        if whole > 1:
            groups.append(Group(Joint(_ARITY, False), _ARITY, whole - 1))
        if rest > 1:
            groups.append(Group(Joint(rest, not whole), whole * _ARITY, 1))
        levels.append(tuple(groups))
        runs = whole + (rest > 0)
    return tuple(levels)
