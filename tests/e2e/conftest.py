from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from world import World

from suan.rules.policy import Policy


@pytest.fixture
def world_of(tmp_path: Path) -> Iterator[Callable[[Policy], World]]:
    worlds: list[World] = []

    def make(policy: Policy) -> World:
        worlds.append(World(tmp_path / f"world{len(worlds)}", policy))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def world(world_of: Callable[[Policy], World]) -> World:
    return world_of(Policy())
