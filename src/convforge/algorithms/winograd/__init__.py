"""Winograd's minimal filtering F(m x m, 3 x 3): exact matrices, generated transforms, policy."""

from functools import partial

from convforge.algorithms.policy import Policy
from convforge.algorithms.winograd import policy

POLICIES = tuple(
    Policy(
        f"winograd_f{m}",
        policy.PASSES,
        ("conv",),
        policy.refuses,
        partial(policy.cost, m),
        partial(policy.error, m),
        partial(policy.program, m),
    )
    for m in policy.TILES
)
