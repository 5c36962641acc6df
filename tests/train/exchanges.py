"""What every Exchange keeps, whatever its scheme; test_trainer.py runs it over the ones that train has itself.

A later implementation joins by passing what makes one (with its peers behind it) to `check_exchange`.
"""

from __future__ import annotations

import numpy as np

from discod.train.rounds import Exchange, JointState


async def check_exchange(exchange: Exchange, d: int, rounds: int = 3) -> list[JointState | None]:
    """Drive `rounds` rounds from zero parameters and check the contract; returns what came back."""
    parameters, newest, came_back = np.zeros(d, np.float32), 0, []
    for number in range(rounds):
        await exchange.round_begin()
        parameters += np.float32(number + 1)
        kept = parameters.copy()
        state = await exchange.round_end(parameters, weight=10 * (number + 1))
        assert (parameters == kept).all(), "an exchange only reads the local parameters"
        came_back.append(state)
        if state is not None:
            assert state.round > newest, "a joint state is newer than the one before"
            assert state.parameters.shape == (d,)
            assert state.parameters.dtype == np.float32
            assert not np.shares_memory(state.parameters, parameters), "the joint state outlives the worker's memory"
            newest = state.round
            parameters[...] = state.parameters
    return came_back
