"""Prove what you wrote yourself: the laws that every one of wellposed's own is held to.

    from wellposed.testing import check_constraint, check_optimizer, check_penalty, check_reader, check_rule
    check_penalty(MyPenalty(strength=0.3))
    check_constraint(MySet(bound=2.0))
    check_optimizer(lambda parameters: MyOptimizer(parameters, lr=0.01))
    check_rule(MyRule(), found=[{"train_loss": [...], "valid_loss": [...]}])
    check_reader(my_reader, "a_log_of_that_kind.txt")

All are silent where every law holds and raise `LawBroken`, an AssertionError, where one does not. Laws prove that value,
prox and violation belong together, never their scale: add one closed form, computed by hand.
"""

from wellposed.testing.laws import LawBroken, check_constraint, check_penalty
from wellposed.testing.optimizers import check_optimizer
from wellposed.testing.rule_laws import check_reader, check_rule

__all__ = ["LawBroken", "check_constraint", "check_optimizer", "check_penalty", "check_reader", "check_rule"]
