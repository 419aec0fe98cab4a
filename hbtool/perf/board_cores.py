"""What nodes on the board's CPU cores cost, estimated from published figures.

`time = bytes read and written * ns_per_byte`, and `task_us` once per frame for submitting it. The figures:

* bayes-e (A55 1.5 GHz): task 250..500 us, 0.25 ns per byte. RDK X5: latency with one thread minus the bound is
  0.25..0.5 ms + 2.0 ns per float32 output element; a Dequantize of int32 moves 8 bytes per element.
* bayes (A55 1.2 GHz): taken over from bayes-e. One published J5 point, 2.4 ms for 1.2 M elements, against 2.7..2.9 ms.
* bernoulli2 (A53 1.5 GHz): task 50..335 us from the X3 profile of MobileNetV1 (pending 0.05 ms; 0.335 ms together with
  its Dequantize, layout conversion, Softmax and preprocessing); per byte taken over from bayes-e.
* nash (A78AE 1.5 GHz): task 160..200 us for small classifiers on the RDK S100; 0.44 ms (median) for 640x640 detection
  with 1.2 M elements leaves 0.2 ns per element.

It counts traffic only: a node that computes much for every byte (a convolution in float) takes longer.
"""

from __future__ import annotations

from dataclasses import dataclass

from hbtool.target.target import Family


@dataclass(frozen=True)
class BoardCores:
    """Published figures of a board's CPU.

    Attributes:
        cores: their kind and clock.
        task_us: (lowest, highest) time to submit one frame, microseconds.
        ns_per_byte: of what a node reads and writes.
    """

    cores: str
    task_us: tuple[float, float]
    ns_per_byte: float

    def us(self, moved_bytes: int) -> float:
        """Estimated time of nodes that read and write so many bytes."""
        return moved_bytes * self.ns_per_byte / 1e3


_CORES: dict[Family, BoardCores] = {
    "bernoulli2": BoardCores("A53 1.5 GHz", (50.0, 335.0), 0.25),
    "bayes": BoardCores("A55 1.2 GHz", (250.0, 500.0), 0.25),
    "bayes-e": BoardCores("A55 1.5 GHz", (250.0, 500.0), 0.25),
    "nash": BoardCores("A78AE 1.5 GHz", (160.0, 200.0), 0.025),
}


def board_cores(family: Family) -> BoardCores:
    """The figures of a BPU family's boards."""
    return _CORES[family]
