"""Property tests of the parsers of single values."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtool.config.kinds import SHAPES
from hbtool.config.optimization import KindFlag, OptimizationFlags, build_flags
from hbtool.config.values import (
    BadValueError,
    numbers_text,
    parse_bool,
    parse_choice,
    parse_float,
    parse_int,
    parse_numbers,
    parse_shape,
    shape_text,
    split_flags,
    split_names,
    split_parts,
    split_shapes,
)

blanks = st.text(alphabet=" \t", max_size=3)
words = st.from_regex(r"[A-Za-z_/][A-Za-z0-9_./:-]{0,12}", fullmatch=True).filter(
    lambda word: word.lower() not in ("none", "null")
)
shapes = st.lists(st.integers(1, 10**6), min_size=1, max_size=6).map(tuple)
floats = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(st.lists(st.one_of(words, st.none()), min_size=1, max_size=6), blanks, st.sampled_from(["", "None", "null"]))
def test_parts_survive_blanks_and_spellings_of_nothing(parts: list[str | None], pad: str, nothing: str) -> None:
    text = ";".join(pad + (nothing if part is None else part) + pad for part in parts)
    assert split_parts(text) == parts


@given(st.lists(words, min_size=2, max_size=6), st.sampled_from([";", ",", "；", "，", " ; ", ", "]))
def test_names_split_at_either_separator(names: list[str], separator: str) -> None:
    assert split_names(separator.join(names)) == names


@given(shapes, st.sampled_from(["x", "X", "*", ",", ", ", " x ", "×"]), st.sampled_from(["{}", "[{}]", "({})"]))
def test_shapes_in_every_notation(shape: tuple[int, ...], separator: str, frame: str) -> None:
    assert parse_shape(frame.format(separator.join(map(str, shape)))) == shape


@given(st.lists(shapes.filter(lambda shape: len(shape) > 1), min_size=2, max_size=4))
def test_shapes_of_several_inputs_even_with_commas(parts: list[tuple[int, ...]]) -> None:
    written = [shape_text(shape) for shape in parts]
    assert split_shapes(",".join(written)) == written
    assert split_shapes(str(SHAPES.write(parts))) == written


@pytest.mark.parametrize("text", ["", "1x", "1x3x?", "ax3", "1x3x224x224.5", "1x-1x3", "1x0x3", "1x@SIZE@", "x1x3"])
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(BadValueError):
        parse_shape(text)


@given(st.lists(floats, min_size=1, max_size=8), st.sampled_from([" ", ",", ", ", "  ", "\t"]))
def test_numbers_read_back_bit_for_bit(numbers: list[float], separator: str) -> None:
    assert parse_numbers(separator.join(map(repr, numbers))) == tuple(numbers)
    assert parse_numbers(numbers_text(numbers)) == tuple(numbers)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "abc", "1/0", "", "1..2", "0x10"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(BadValueError):
        parse_float(text)


def test_fractions_are_numbers() -> None:
    assert parse_float("1/255") == 1 / 255


@given(st.integers(-(10**15), 10**15))
def test_integers_also_as_floats(number: int) -> None:
    assert parse_int(str(number)) == number
    assert parse_int(f"{number}.0") == number


@given(st.text(max_size=12))
def test_no_text_breaks_a_parser_otherwise(text: str) -> None:
    for parse in (parse_bool, parse_int, parse_float, parse_numbers, parse_shape):
        with contextlib.suppress(BadValueError):
            parse(text)


@pytest.mark.parametrize(("text", "value"), [("True", True), ("off", False), (" 1 ", True), ("'FALSE'", False)])
def test_booleans(text: str, value: bool) -> None:
    assert parse_bool(text) is value


def test_choices_forgive_case_and_hyphens_but_guess_aloud() -> None:
    assert parse_choice("NO-PREPROCESS", ("no_preprocess", "data_mean")) == "no_preprocess"
    with pytest.raises(BadValueError) as caught:
        parse_choice("data_men", ("no_preprocess", "data_mean"))
    assert caught.value.hint == "Did you mean 'data_mean'?"


kind_flags = st.builds(
    KindFlag,
    op_type=st.sampled_from(["Softmax", "Mul", "LayerNormalization", "My_Op"]),
    side=st.sampled_from(["input", "output"]),
    dtype=st.just("int8") | st.just("int16"),
)
flag_sets = st.builds(
    OptimizationFlags,
    model_output=st.sampled_from([None, "int8", "int16"]),
    kinds=st.lists(kind_flags, max_size=4, unique_by=lambda kind: (kind.op_type, kind.side)).map(tuple),
    all_nodes_int16=st.booleans(),
    asymmetric=st.booleans(),
    bias_correction=st.booleans(),
    equalize=st.booleans(),
    lstm_batch_last=st.booleans(),
    run_fast=st.booleans(),
)


@given(flag_sets, st.sampled_from([",", ";", ", ", " ; "]))
def test_flags_survive_writing_and_reading(flags: OptimizationFlags, separator: str) -> None:
    again, unknown = build_flags(split_flags(separator.join(flags.flags)))
    assert again == flags
    assert unknown == ()


def test_flags_that_contradict_each_other() -> None:
    with pytest.raises(BadValueError, match="exclude each other"):
        build_flags(["set_model_output_int8", "set_model_output_int16"])
    with pytest.raises(BadValueError, match="contradict"):
        build_flags(["set_Mul_input_int8", "set_Mul_input_int16"])
    assert build_flags(["set_Softmax_int8"])[1] == ("set_Softmax_int8",)
