"""Winograd's minimal filtering F(m x m, r x r): exact matrices, generated transforms, policy."""

from functools import partial

from convforge.algorithms.policy import Policy
from convforge.algorithms.winograd import policy

POLICIES = tuple(
    Policy(
        f"winograd_f{m}",
        policy.passes(family),
        ("conv",),
        partial(policy.refuses, family),
        partial(policy.cost, family),
        partial(policy.error, family),
        partial(policy.program, family),
    )
    for m, family in policy.FAMILIES.items()
)
