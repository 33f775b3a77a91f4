"""JSON as RFC 8259 means it, without what Python's reader lets through and Postgres or a peer chokes on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from edge.config import Intake
from edge.errors import Rejected

_SURROGATE = re.compile("[\ud800-\udfff]")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_MARKS = re.compile(r"[\[\]{},]")


@dataclass(frozen=True, slots=True)
class Limits:
    """How large an event may be: `bytes` of payload, nesting `depth`, `digits` of one number, characters of one `key`,
    `items` in all its lists and objects together. And when it may have happened: not before `earliest_year`, not more
    than `ahead_hours` after it came.
    """

    bytes: int = 262_144
    depth: int = 32
    digits: int = 40
    key: int = 200
    items: int = 10_000
    earliest_year: int = 2000
    ahead_hours: int = 24

    @classmethod
    def of(cls, intake: Intake) -> Limits:
        return cls(
            bytes=intake.max_payload_bytes,
            depth=intake.max_depth,
            digits=intake.max_digits,
            key=intake.max_key_length,
            items=intake.max_items,
            earliest_year=intake.earliest_year,
            ahead_hours=intake.ahead_hours,
        )


def loads(payload: bytes, limits: Limits) -> dict[str, Any]:
    """Read one JSON object. Raises `Rejected` naming what is wrong, never anything else."""
    if len(payload) > limits.bytes:
        raise Rejected(
            f"The payload has {len(payload)} bytes, more than the {limits.bytes} that intake.max_payload_bytes allows."
        )
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected(f"The payload is not valid UTF-8 (byte {error.start}).") from error
    _check_size(text, limits)
    try:
        value = json.loads(
            text,
            parse_constant=_no_constant,
            parse_int=lambda digits: _integer(digits, limits.digits),
            parse_float=lambda digits: _finite(digits, limits.digits),
            object_pairs_hook=lambda pairs: _object(pairs, limits.key),
        )
    except json.JSONDecodeError as error:
        raise Rejected(f"The payload is not valid JSON: {error.msg} at character {error.pos}.") from error
    except RecursionError as error:
        raise Rejected(
            f"The payload is nested more deeply than the {limits.depth} that intake.max_depth allows."
        ) from error
    if not isinstance(value, dict):
        raise Rejected("The payload must be a JSON object.")
    return value


def is_text(text: str) -> bool:
    """Whether Postgres and every peer can keep it: no NUL, no half of a surrogate pair."""
    return "\x00" not in text and not _SURROGATE.search(text)


def _check_size(text: str, limits: Limits) -> None:
    depth = items = 0
    for mark in _MARKS.findall(_STRING.sub("", text)):
        if mark in "[{":
            depth += 1
            if depth > limits.depth:
                raise Rejected(
                    f"The payload is nested more deeply than the {limits.depth} that intake.max_depth allows."
                )
        elif mark in "]}":
            depth -= 1
        else:
            items += 1
    if items >= limits.items:
        raise Rejected(
            f"The payload holds {items + 1} items, more than the {limits.items} that intake.max_items allows."
        )


def _no_constant(name: str) -> NoReturn:
    raise Rejected(f"The payload holds {name}, which is not JSON.")


def _integer(digits: str, allowed: int) -> int:
    _check_digits(digits, allowed)
    return int(digits)


def _finite(digits: str, allowed: int) -> float:
    _check_digits(digits, allowed)
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise Rejected(f"The payload holds the number {digits[:20]}, which is too large.")
    return value


def _check_digits(digits: str, allowed: int) -> None:
    if len(digits) > allowed:
        raise Rejected(
            f"The payload holds a number of {len(digits)} digits, more than the {allowed} that intake.max_digits allows."
        )


def _object(pairs: list[tuple[str, Any]], key_length: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise Rejected(f"The payload holds the key {key[:40]!r} twice.")
        if len(key) > key_length:
            raise Rejected(
                f"The payload holds a key of {len(key)} characters, more than the {key_length} "
                "that intake.max_key_length allows."
            )
        _check_text(key)
        _check_values(value)
        result[key] = value
    return result


def _check_values(value: Any) -> None:
    # Objects inside were checked by their own hook call: only strings and lists of this level are left.
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, list):
        for item in value:
            _check_values(item)


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise Rejected("The payload holds a NUL character, which a text cannot keep.")
    if _SURROGATE.search(text):
        raise Rejected("The payload holds half of a surrogate pair, which is not text.")
