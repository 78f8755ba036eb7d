"""Prove your own penalty or constraint: the laws that every one of wellposed's own is held to.

    from wellposed.testing import check_constraint, check_penalty
    check_penalty(MyPenalty(strength=0.3))
    check_constraint(MySet(bound=2.0))

Both are silent where every law holds and raise `LawBroken`, an AssertionError, where one does not. Laws prove that value,
prox and violation belong together, never their scale: add one closed form, computed by hand.
"""

from wellposed.testing.laws import LawBroken, check_constraint, check_penalty

__all__ = ["LawBroken", "check_constraint", "check_penalty"]
