"""Why a secret-shared computation refuses or stops. No message ever holds key material or a share."""


class MpcError(Exception):
    """What every refusal of this package is."""


class EncodingError(MpcError):
    """A value that the ring cannot hold: not finite, or too large for the fixed-point encoding."""


class KeyFileError(MpcError):
    """A key file that is missing, damaged, or readable by others."""


class RosterError(MpcError):
    """A roster that is damaged, not signed by the trusted authority, or contradicts itself."""


class UnknownMemberError(RosterError):
    """Somebody who is not in the roster, or not in that role."""


class SealError(MpcError):
    """An envelope that was altered, cut, or sealed for another party, site, round, model or run."""


class SignatureInvalidError(MpcError):
    """A signature that does not fit the site, header and envelopes it came with."""


class HeaderError(MpcError):
    """A report's header that is damaged, or belongs to another run, round, model or roster."""


class ReplayError(MpcError):
    """A report that was seen before."""


class QuorumError(MpcError):
    """Fewer sites than a party, a site or the federation's rule asks for."""


class SetMismatchError(MpcError):
    """The parties do not hold the same set of reports."""


class MembershipError(MpcError):
    """A set that differs from the last one by too few sites to hide them (--strict-membership)."""


class BoundError(MpcError):
    """Settings under which the norm check would not be sound."""


class NoiseError(MpcError):
    """A round whose sum would have less noise than a site asks for."""


class AlreadyOpenedError(MpcError):
    """A second sum was asked for over a global model that one was opened for, on other terms or by another run."""


class MaterialError(MpcError):
    """Correlated randomness that is short, damaged, or was used before."""


class PlanError(MpcError):
    """A plan of an encrypted inference that is damaged, or a network that none can be made for."""


class RangeError(MpcError):
    """Inputs that lie outside of what a plan's widths are for; ``images`` are their numbers."""

    def __init__(self, reason: str, images: tuple[int, ...] = ()) -> None:
        super().__init__(reason)
        self.images = images


class QueryLimitError(MpcError):
    """More images than a model owner scores for one data owner."""


class SessionAborted(MpcError):
    """A session between parties that ended early; ``lost`` names who is to blame, where that is known."""

    def __init__(self, reason: str, lost: str | None = None) -> None:
        super().__init__(reason)
        self.lost = lost
