"""What the user asks of the compiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CompileMode = Literal["latency", "bandwidth", "balance"]
OptimizeLevel = Literal["O0", "O1", "O2", "O3"]


@dataclass(frozen=True)
class CompileOptions:
    """The compiler's options (the names of the configuration file).

    Attributes:
        optimize_level: O0 runs every layer from DDR to DDR; O1 keeps results on chip and moves addresses instead of
            data; O2 also runs neighbouring layers band by band; O3 also compares several strategies.
        compile_mode: `latency`, `bandwidth` (DDR bytes) or `balance` between them.
        balance_factor: weight of latency with `balance`, 0 to 100.
        core_num: cores that work on one frame.
        max_time_per_fc: longest function call in microseconds, 0 for no limit.
        jobs: processes; results do not depend on it.
        input_no_padding: inputs lie in DDR without padding.
        output_no_padding: so do outputs.
    """

    optimize_level: OptimizeLevel = "O2"
    compile_mode: CompileMode = "latency"
    balance_factor: int = 0
    core_num: int = 1
    max_time_per_fc: int = 0
    jobs: int = 1
    input_no_padding: bool = False
    output_no_padding: bool = False

    @property
    def level(self) -> int:
        """0 to 3."""
        return int(self.optimize_level[1])

    @property
    def latency_weight(self) -> float:
        """0 (only DDR bytes count) to 1 (only time counts)."""
        return {"latency": 1.0, "bandwidth": 0.0, "balance": self.balance_factor / 100}[self.compile_mode]

    def text(self) -> str:
        """As the vendor's compiler would be called."""
        mode = {"latency": "--fast", "bandwidth": "--ddr", "balance": f"--balance {self.balance_factor}"}
        parts = [f"--{self.optimize_level}", f"--core-num {self.core_num}", mode[self.compile_mode]]
        if self.max_time_per_fc:
            parts.append(f"--max-time-per-fc {self.max_time_per_fc}")
        parts += ["--input-no-padding"] if self.input_no_padding else []
        parts += ["--output-no-padding"] if self.output_no_padding else []
        return " ".join(parts)
