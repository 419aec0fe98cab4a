"""`compiler_parameters` and `custom_op`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from hbtool.config.dict_kinds import FREE, SOURCES
from hbtool.config.keys import Key
from hbtool.config.kinds import ANYTHING, BOOL, NAMES, PATH, TEXT, choice, integer
from hbtool.config.section import Section

CompileMode = Literal["latency", "bandwidth", "balance"]
OptimizeLevel = Literal["O0", "O1", "O2", "O3"]
CacheMode = Literal["disable", "enable", "force_overwrite"]
PADDING_SWITCHES = ("input_no_padding", "output_no_padding")
"""The extra_params that mean something here."""
_NO_CUSTOM_CODE = "register is the only method"


class CompilerParameters(Section):
    """The `compiler_parameters` group."""

    compile_mode: Annotated[
        CompileMode,
        Key(
            choice(("latency", "bandwidth", "balance"), {"ddr": "bandwidth", "fast": "latency"}),
            "What the compiler favours: short latency, little DDR traffic, or a mixture (balance, bayes-e and nash, "
            "needs balance_factor).",
        ),
    ] = "latency"
    balance_factor: Annotated[
        int | None,
        Key(
            integer(0, 100),
            "Weight of latency with compile_mode balance, and mandatory there (nash: 0): 0 is bandwidth, 100 latency.",
            default_text="none",
        ),
    ] = None
    debug: Annotated[bool, Key(BOOL, "Keep per-layer performance in the artifact, for hb_perf's layer details.")] = True
    core_num: Annotated[
        int,
        Key(
            integer(1, 4),
            "Cores that work on one frame: bernoulli2 1 or 2; nash-h, nash-p and nash-starry-p 1..4; others 1.",
        ),
    ] = 1
    optimize_level: Annotated[
        OptimizeLevel,
        Key(
            choice(
                ("O0", "O1", "O2", "O3"),
                {f"{dash}{n}": f"O{n}" for dash in ("", "-O", "--O", "0") for n in range(4)},
            ),
            "How hard the compiler looks for a fast program: O0 compiles fastest and runs slowest, O3 the reverse. "
            "nash ends at O2. (The vendor's older default is O0, which makes models many times too slow.)",
        ),
    ] = "O2"
    input_source: Annotated[
        dict[str, str],
        Key(
            SOURCES,
            "Where each input comes from. pyramid and resizer: nv12 and gray only; ddr: everything but nv12. resizer: "
            "the application may feed a picture of any size, which is resized; it needs height·width below 18432 and "
            "no layer_out_dump.",
            default_text="nv12, gray: pyramid; others: ddr",
        ),
    ] = Field(default_factory=dict)
    max_time_per_fc: Annotated[
        int,
        Key(
            integer(0),
            "Longest stretch of one function call in microseconds, for pre-emption on the board: 0 (no limit) or "
            "1000..4294967295 (nash: ..10000000).",
        ),
    ] = 0
    jobs: Annotated[
        int | None,
        Key(integer(0), "Compiler processes; absent or 0: as many as there are cores.", default_text="cores"),
    ] = None
    advice: Annotated[
        int,
        Key(integer(0), "Report layers whose estimated time exceeds the ideal by this many microseconds; 0: none."),
    ] = 0
    cache_mode: Annotated[
        CacheMode,
        Key(
            choice(("disable", "enable", "force_overwrite"), {"false": "disable", "true": "enable"}),
            "Reuse of compiled segments: disable, enable, or force_overwrite (compile anew and store).",
        ),
    ] = "disable"
    cache_path: Annotated[
        str | None, Key(PATH, "Folder of the compile cache; absent: in working_dir.", default_text="in working_dir")
    ] = None
    max_l2m_size: Annotated[
        int,
        Key(
            integer(0, 25_165_824, "bytes"),
            "Most on-chip memory the model may use, over all of its cores; 0: all there is. What does not fit goes "
            "through DDR.",
            marches="nash-h, nash-p, nash-starry-p",
            ignored_on={
                "bernoulli2": "no L2 memory there",
                "bayes": "no L2 memory there",
                "bayes-e": "no L2 memory there",
            },
        ),
    ] = 0
    extra_params: Annotated[
        dict[str, JsonValue],
        Key(
            FREE,
            "Further switches: input_no_padding and output_no_padding (True: inputs or outputs lie in DDR without the "
            "machine's padding). Others are switches of the vendor's compiler and have no effect here.",
            default_text="{}",
        ),
    ] = Field(default_factory=dict)
    ability_entry: Annotated[
        str | None,
        Key(ANYTHING, "Not documented publicly.", marches="nash", ignored_on={"all": "its meaning is not public"}),
    ] = None
    hbdk3_compatible_mode: Annotated[
        str | None,
        Key(ANYTHING, "Deprecated.", marches="nash", ignored_on={"all": "deprecated, and hbtool has one format"}),
    ] = None


class CustomOp(Section):
    """The optional `custom_op` group."""

    custom_op_method: Annotated[
        str | None, Key(TEXT, "register is the only method.", ignored_on={"all": _NO_CUSTOM_CODE})
    ] = None
    op_register_files: Annotated[
        tuple[str, ...],
        Key(
            NAMES,
            "ONNX files (.onnx) whose functions say in standard operators what custom operators compute. Python files "
            "are never executed: they are named in a warning and left out.",
        ),
    ] = ()
    custom_op_dir: Annotated[
        str | None, Key(PATH, "Folder of these files.", default_text="the configuration's folder")
    ] = None
