"""Scales of activations whose ratios are dyadic, so that integer-only arithmetic is exact (docs/arithmetic.md).

Each group of tensors with common codes has one scale. A scale that occurs in one ratio only can always be moved to the
next float32 number that makes this ratio exact: it *owns* the ratio. What is left when such ratios are taken away, one
after the other, is a core of ratios in circles; its scales become powers of two. Then the owners are moved in reverse
order, each by one part in 2^multiplier_bits at the most.
"""

from collections.abc import Container, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ptqc.allocate.groups import Group
from ptqc.allocate.place import Placement
from ptqc.allocate.ratios import Ratio, constant_operands, find_ratios
from ptqc.core.arithmetic import affine_params, symmetric_params
from ptqc.core.dyadic import MULTIPLIER_BITS, ScaleRule, float_neighbours, in_units, nearest_dyadic, next_dyadics
from ptqc.core.errors import ModelError, quoted
from ptqc.core.types import UINT8, WIDE, Array, QuantParams

SHORT = 14  # bits of the significand of scales that others are multiples of
LEAST_CODE, MOST_CODE = 128, 254  # of a constant that is one number
MOST_REPAIRS = 200
CLIPPED = 1.05  # a scale in a core may be so much less than what its range needs


def dyadic_params(
    model: ir.Model,
    placement: Placement,
    groups: Sequence[Group],
    params: Mapping[str, QuantParams],
    rule: ScaleRule,
) -> dict[str, QuantParams]:
    """Parameters of all activations, and of the constants that are added, multiplied or joined, with exact ratios.

    Args:
        model: the canonical float graph of ``placement`` and ``groups``.
        params: of every activation that has codes; with ``pow2`` their scales are powers of two but for factors.

    Raises:
        ModelError: an operator has no exact multipliers.
    """
    constants = constant_operands(model, placement)
    solver = _Solver(model, placement, groups, params, constants, rule)
    solver.run()
    return solver.params()


class _Solver:
    """Variables are the scales of groups and of constants, called after their first tensor."""

    def __init__(
        self,
        model: ir.Model,
        placement: Placement,
        groups: Sequence[Group],
        params: Mapping[str, QuantParams],
        constants: Mapping[str, Array],
        rule: ScaleRule,
    ) -> None:
        self.rule, self.groups, self.given = rule, groups, params
        self.of: dict[str, tuple[str, float]] = {}  # tensor -> variable, factor
        self.scales: dict[str, np.float32] = {}
        self.zero_points: dict[str, int] = {}
        self.units = {group.request.tensor: group.unit for group in groups}
        self.rigid: set[str] = set()  # may not move
        self.stiff: set[str] = set()  # had better not
        for group in groups:
            self._add_group(group)
        wide = frozenset(name for name, one in params.items() if one.type.bits > 8)
        self.ratios = [*find_ratios(model, placement, wide)]
        self.constants = {name: array for name, array in constants.items() if name not in params}
        used = {name for one in self.ratios for name in one.tensors}
        self.loose = {name: self._constant(name, name in used) for name in self.constants}

    def _add_group(self, group: Group) -> None:
        first = group.request.tensor
        given = self.given[first]
        if group.fixed is not None:
            self.rigid.add(first)
        elif given.type.bits <= 8 and int(given.zero_point) % 2:
            given = affine_params(float(given.low), float(given.high), given.type, even=True)
        if group.request.high is not None:
            self.stiff.add(first)
        for name, factor in group.factors.items():
            self.of[name] = first, factor
        self.scales[first] = np.float32(given.scale)
        self.zero_points[first] = int(given.zero_point)

    def _constant(self, name: str, narrow: bool) -> QuantParams:
        """Parameters of a constant before its scale is moved."""
        array = self.constants[name]
        low, high = float(array.min(initial=0.0)), float(array.max(initial=0.0))
        found = affine_params(low, high, UINT8, even=True)
        if not narrow:
            found = symmetric_params(np.asarray(max(-low, high)), WIDE, None)
        self.of[name] = name, 1.0
        self.scales[name], self.zero_points[name] = np.float32(found.scale), int(found.zero_point)
        return found

    # Reading scales.

    def scale(self, tensor: str) -> np.float32:
        """Of a tensor, as the plan computes it from that of its group."""
        variable, factor = self.of[tensor]
        return np.float32(self.scales[variable] * np.float32(factor))

    def _zero_point(self, tensor: str) -> int:
        return self.zero_points[self.of[tensor][0]]

    def _holds(self, one: Ratio) -> bool:
        return one.holds(self.scale, self._zero_point)

    def _variables(self, one: Ratio) -> list[str]:
        return [self.of[name][0] for name in one.tensors]

    # Solving.

    def run(self) -> None:
        """Moves the scales until every ratio is exact."""
        self._enliven()
        if self.rule.family == "pow2":
            for group in self.groups:
                self._shorten_factors(group.request.tensor)
            core, owners = self._owners(self.constants)
        else:
            for name in dict.fromkeys(variable for one in self.ratios for variable in self._variables(one)):
                if name not in self.rigid:
                    self.scales[name] = _shortened(self.scales[name])
            core, owners = self._owners(self.scales)
        self._make_core(core)
        for one, variable in reversed(owners):
            self._move(one, variable)
        for one in self.ratios:
            if not self._holds(one):
                raise _no_multiplier(one)

    def _enliven(self) -> None:
        """Gives a summand that is always zero, which has the scale 1, the scale of the sum."""
        for one in self.ratios:
            variable = self.of[one.inputs[0]][0]
            dead = self.scales[variable] == 1 and self.zero_points[variable] == 0
            if len(one.inputs) == 1 and dead and one.value(self.scale) > 16 and variable not in self.rigid:
                self.scales[variable] = self.scales[self.of[one.output][0]]

    def _owners(self, movable: Container[str]) -> tuple[list[Ratio], list[tuple[Ratio, str]]]:
        """The core, and the other ratios in the order in which they were taken away, each with its owner."""
        left = dict.fromkeys(self.ratios)
        count: dict[str, int] = {}
        for one in left:
            for name in self._variables(one):
                count[name] = count.get(name, 0) + 1
        owners: list[tuple[Ratio, str]] = []
        while True:
            choices = [
                (self._reluctance(name), index, one, name)
                for index, one in enumerate(left)
                for name in self._variables(one)
                if count[name] == 1 and name in movable and name not in self.rigid
            ]
            if not choices:
                return list(left), owners
            *_, one, owner = min(choices, key=lambda choice: choice[:2])
            owners.append((one, owner))
            del left[one]
            for name in self._variables(one):
                count[name] -= 1

    def _reluctance(self, variable: str) -> int:
        """How little a variable should be moved: constants first, what has known bounds last."""
        return 0 if variable in self.constants else 2 if variable in self.stiff else 1

    def _make_core(self, core: Sequence[Ratio]) -> None:
        """Makes the scales of ``core`` powers of two, and greater where multipliers would need too many bits."""
        for name in dict.fromkeys(variable for one in core for variable in self._variables(one)):
            self._shorten_factors(name)
            if name not in self.rigid:
                unit = self.units.get(name, 1.0)
                exponent = np.ceil(np.log2(float(self.scales[name]) / unit / CLIPPED))
                self.scales[name] = np.float32(in_units(np.asarray(2.0**exponent), unit))
        for _ in range(MOST_REPAIRS):
            broken = [one for one in core if not self._holds(one)]
            if not broken:
                return
            self._widen(broken[0])

    def _shorten_factors(self, variable: str) -> None:
        for name, (owner, factor) in self.of.items():
            if owner == variable and np.log2(factor) % 1 and self.units.get(variable, 1.0) == 1.0:
                numerator, shift = nearest_dyadic(np.asarray(factor), MULTIPLIER_BITS, 62)
                self.of[name] = variable, float(numerator / 2.0**shift)

    def _widen(self, one: Ratio) -> None:
        """Doubles a scale that is too small beside the others: of the result, or of what is added or multiplied."""
        inputs = one.inputs if one.partner is None else (*one.inputs, one.partner)
        smallest = min(inputs, key=lambda name: float(self.scale(name)))
        order = [one.output] if one.most_shift(self.scale) < 0 else [smallest, *inputs]
        for name in order:
            variable = self.of[name][0]
            if variable not in self.rigid:
                self.scales[variable] = np.float32(self.scales[variable] * 2)
                return
        raise _no_multiplier(one)

    def _move(self, one: Ratio, variable: str) -> None:
        """Moves the scale of ``variable``, which occurs once in ``one``, so that ``one`` is exact."""
        bits = self.rule.multiplier_bits
        if variable in self.constants:
            self._choose_code(one, variable)
        start, number = float(self.scales[variable]), one.value(self.scale)
        is_output = self.of[one.output][0] == variable
        most = max(one.most_shift(self.scale, 1.0 + 2.0 ** (1 - bits)), 0)
        power = 2.0 ** max(round(np.log2(number)), -most)
        for exact in (*next_dyadics(number, bits, most), power):
            wanted = start * (number / exact if is_output else exact / number)
            for candidate in float_neighbours(np.asarray(wanted, np.float32)):
                self.scales[variable] = np.float32(candidate)
                if one.multiplier(self.scale) == exact and self._holds(one):
                    return
        raise _no_multiplier(one)

    def _choose_code(self, one: Ratio, name: str) -> None:
        """The scale of a constant that is one number: that of the code for which the multiplier fits best."""
        array = self.constants[name]
        number = float(array.flat[0]) if array.size else 0.0
        if array.size == 0 or (array != number).any() or number == 0.0:
            return
        self.zero_points[name] = 0 if number > 0 else MOST_CODE
        scales = abs(number) / np.arange(MOST_CODE, LEAST_CODE - 1, -1)
        wanted = one.value(self.scale) / float(self.scales[name]) * scales
        most = max(one.most_shift(self.scale, 2.0), 0)
        multiplier, shift = nearest_dyadic(wanted, self.rule.multiplier_bits, most)
        error = np.abs(np.log(multiplier / 2.0**shift / wanted))
        self.scales[name] = np.float32(scales[int(np.argmin(error))])

    # The result.

    def params(self) -> dict[str, QuantParams]:
        """By tensor."""
        found = {
            name: QuantParams(self.given[name].type, np.asarray(self.scale(name)), np.asarray(self._zero_point(name)))
            for group in self.groups
            for name in group.factors
        }
        for name, given in self.loose.items():
            scale = np.asarray(self.scale(name))
            found[name] = QuantParams(given.type, scale, np.asarray(self._zero_point(name)))
        return found


def _shortened(scale: np.float32) -> np.float32:
    """The next number with few bits, so that its multiples are float32 numbers too."""
    fraction, exponent = np.frexp(np.float64(scale))
    return np.float32(np.ldexp(np.rint(fraction * 2.0**SHORT) / 2.0**SHORT, int(exponent)))


def _no_multiplier(one: Ratio) -> ModelError:
    tensors = ", ".join(quoted(name) for name in dict.fromkeys(one.tensors))
    return ModelError(
        f"{one.operator} {quoted(one.node)} has no exact multiplier",
        where=one.node,
        why=f"the scales of {tensors} have no ratio b / 2^c with few enough bits",
        fix=f"use --scales pow2 or more --multiplier-bits, or --allow-float {quoted(one.node)}",
    )
