"""A layer's options, and the string as which the operators carry them."""

from dataclasses import asdict, fields, replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from tritonlstm import Spec
from tritonlstm.core.arguments import UNMARKED, Arguments
from tritonlstm.core.spec import CHOICES, FLAGS, RETURNS, Options

OTHERS = [(name, value) for name, choices in {**CHOICES, "returns": RETURNS}.items() for value in choices]
OTHERS += [(name, value) for name in FLAGS for value in (False, True)]


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_a_string_holds_every_option(name: str, value: str | bool):
    spec = replace(Spec(), **{name: value})
    assert Spec.decode(spec.encode()) == spec
    assert f"{name}={value!r}" in spec.encode()


def test_every_option_has_a_default_choices_and_a_keyword():
    names = {field.name for field in fields(Spec)}
    assert names == {*CHOICES, *FLAGS, "cell_clip", "dilation", "padding_mode", "returns"} == set(asdict(Spec()))
    assert set(Options.__annotations__) == names - {"returns"}, "which each call says"


@pytest.mark.parametrize("dilation", [1, 2, (1, 2), (3,)])
@pytest.mark.parametrize("mode", ["circular", ("zeros", "reflect"), ("replicate",) * 3])
def test_a_string_holds_one_value_or_one_for_each_dimension(dilation: object, mode: object):
    spec = Spec(dilation=dilation, padding_mode=mode)
    assert Spec.decode(spec.encode()) == spec
    assert Spec(dilation=list(dilation) if isinstance(dilation, tuple) else np.int64(dilation)).dilation == dilation
    assert hash(spec) == hash(replace(spec))


def test_an_older_string_gets_the_defaults_of_newer_options():
    assert Spec.decode("activation='relu'") == Spec(activation="relu")
    assert Spec.decode("") == Spec()


def test_a_newer_string_is_refused_by_the_name_of_its_option():
    with pytest.raises(ValueError, match="unknown option zoneout"):
        Spec.decode("activation='relu', zoneout=0.1")


@pytest.mark.parametrize("value", [3, 0.1, 1e-30, np.float32(0.3), Fraction(1, 3)], ids=str)
def test_a_string_holds_every_bound_exactly(value: object):
    spec = Spec(cell_clip=value)
    assert type(spec.cell_clip) is float and spec.cell_clip == float(value)
    assert Spec.decode(spec.encode()) == spec


def test_layers_with_the_same_gates_have_the_same_pointwise_spec():
    plain = Spec(activation="relu").pointwise
    assert plain == Spec(activation="relu", output_activation="relu", memory="recompute", dilation=2).pointwise
    assert plain.activation_of_c == "relu" and plain.dilation == 1
    others = ({"recurrent_activation": "hard_sigmoid"}, {"output_activation": "tanh"}, {"cell_clip": 3.0})
    assert plain not in [Spec(activation="relu", **other).pointwise for other in others]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, choices in CHOICES.items()
        for value in ("TANH", None, 1, torch.ones(2))
        if value is not None or None not in choices
    ],
    ids=str,
)
def test_a_wrong_value_names_the_option_and_what_is_there(name: str, value: object):
    with pytest.raises(ValueError, match=f"^{name}: expected one of {CHOICES[name][0]!r}"):
        Spec(**{name: value})


@pytest.mark.parametrize("value", ["yes", None, 1, torch.ones(2)], ids=str)
def test_a_wrong_flag_is_refused_by_name(value: object):
    with pytest.raises(TypeError, match=r"^reverse: expected a bool, got "):
        Spec(reverse=value)


@pytest.mark.parametrize(("prefix", "arguments"), [("", Arguments._fields[:UNMARKED]), ("marked_", Arguments._fields)])
@pytest.mark.parametrize("operator", ["inference", "training", "backward"])
def test_an_operators_schema_has_tensors_steps_one_string_and_what_is_needed(
    operator: str, prefix: str, arguments: tuple[str, ...]
):
    schema = getattr(torch.ops.tritonlstm, prefix + operator).default._schema
    others = [str(argument.type) for argument in schema.arguments if "Tensor" not in str(argument.type)]
    assert others == ["int", "str"] + (["List[bool]"] if operator == "backward" else [])
    names = [argument.name for argument in schema.arguments]
    first = names.index("input")
    assert tuple(names[first : first + len(arguments)]) == arguments
