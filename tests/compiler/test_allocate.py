"""On-chip addresses: short-lived buffers take the bytes whose last use lies longest ago."""

from __future__ import annotations

import random

from hbtool.compiler.allocate import Block, Memory


def _used(memory: Memory, block: Block, number: int) -> None:
    block.last = {0: number}
    memory.release(block)


def test_memory_that_nobody_used_is_taken_first_however_many_blocks_were_released_before() -> None:
    memory = Memory(1 << 20, 64)
    blocks = [memory.allocate(64 * n, long_lived=False) for n in range(1, 60)]
    for number, block in enumerate(blocks):
        assert block is not None
        _used(memory, block, number)
    fresh = memory.allocate(100_000, long_lived=False)
    assert fresh is not None and fresh.last == {}


def test_the_place_taken_is_the_one_last_used_longest_ago() -> None:
    rng = random.Random(3)
    for _ in range(40):
        memory, use = Memory(4096, 64), [-1] * 64
        held: list[Block] = []
        for number in range(60):
            size = 64 * rng.randint(1, 12)
            free = [all(not (b.start <= 64 * u < b.stop) for b in held) for u in range(64)]
            places = [u for u in range(65 - size // 64) if all(free[u : u + size // 64])]
            block = memory.allocate(size, long_lived=False)
            assert (block is None) == (not places)
            if block is not None:
                units = range(block.start // 64, block.stop // 64)
                newest = max(use[u] for u in units)
                assert newest == min(max(use[u : u + size // 64]) for u in places)
                assert max(block.last.values(), default=-1) == newest
                block.last = {0: number}
                held.append(block)
                for u in units:
                    use[u] = number
            while held and (block is None or rng.random() < 0.4):
                memory.release(held.pop(rng.randrange(len(held))))
                if rng.random() < 0.5:
                    break
