"""Words, dates and places in the reader's language. Everything a page says comes through here."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, tzinfo
from pathlib import Path
from typing import Any, Literal, get_args

from edge.cases import Case, Zone
from edge.errors import Stop

UiLanguage = Literal["th", "en"]
UI_LANGUAGES: tuple[UiLanguage, ...] = get_args(UiLanguage)

_MONTHS: Mapping[UiLanguage, str] = {
    "th": "ม.ค. ก.พ. มี.ค. เม.ย. พ.ค. มิ.ย. ก.ค. ส.ค. ก.ย. ต.ค. พ.ย. ธ.ค.",
    "en": "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
}
_LINE = re.compile(r"line[-_ ]?(\d+)")


def read_phrases(folder: Path) -> dict[UiLanguage, dict[str, str]]:
    """`th.toml` and `en.toml`, tables joined by dots. Raises `Stop` naming the file."""
    found: dict[UiLanguage, dict[str, str]] = {}
    for language in UI_LANGUAGES:
        file = folder / f"{language}.toml"
        try:
            found[language] = dict(_flat(tomllib.loads(file.read_text("utf-8"))))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Stop(f"The texts of the dashboard cannot be read from {file}: {error}.") from error
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


class Texts:
    """One language. `timezone` is asked each time: the plant may be loaded after the start."""

    def __init__(self, language: UiLanguage, phrases: Mapping[str, str], timezone: Callable[[], tzinfo]) -> None:
        self.language: UiLanguage = language
        self._phrases = phrases
        self._timezone = timezone

    def t(self, key: str, **params: Any) -> str:
        """A phrase. Where it has two forms, "one|many", the parameter `n` chooses."""
        phrase = self._phrases[key]
        if "n" in params:
            one, _, many = phrase.partition("|")
            phrase = one if params["n"] == 1 or not many else many
            params["n"] = self.number(params["n"])
        return phrase.format(**params) if params else phrase

    def label(self, family: str, code: str) -> str:
        """The word for a code, such as ("severity", "high"). A code nobody translated is made readable."""
        return self._phrases.get(f"{family}.{code}") or code.replace("_", " ").strip().capitalize()

    def number(self, value: float) -> str:
        return f"{value:,.0f}"

    def when(self, moment: datetime) -> str:
        """21 Nov 2026 14:05, in Thai with the Buddhist year, in the plant's time."""
        return f"{self.day(moment)} {moment.astimezone(self._timezone()):%H:%M}"

    def clock(self, moment: datetime) -> str:
        """14:05:09, in the plant's time."""
        return f"{moment.astimezone(self._timezone()):%H:%M:%S}"

    def day(self, moment: datetime) -> str:
        """21 Nov 2026, in the plant's time."""
        return self.date(moment.astimezone(self._timezone()))

    def ago(self, moment: datetime, now: datetime | None = None) -> str:
        """3 minutes ago. What lies ahead, by a clock that runs fast, happened just now."""
        seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
        if seconds < 60:
            return self.t("ago.now")
        for unit, size, least in (("days", 86_400, 1), ("hours", 3_600, 1), ("minutes", 60, 1)):
            if seconds >= size * least:
                count = int(seconds // size)
                if unit == "days" and count >= 730:
                    return self.t("ago.years", n=count // 365)
                if unit == "days" and count >= 60:
                    return self.t("ago.months", n=count // 30)
                return self.t(f"ago.{unit}", n=count)
        return self.t("ago.now")

    def span(self, seconds: float) -> str:
        """How long something took or waits."""
        if seconds < 1:
            return self.t("span.moment")
        if seconds < 120:
            return self.t("span.seconds", n=round(seconds))
        if seconds < 7_200:
            return self.t("span.minutes", n=round(seconds / 60))
        if seconds < 172_800:
            return self.t("span.hours", n=round(seconds / 3_600))
        return self.t("span.days", n=round(seconds / 86_400))

    def percent(self, score: float) -> str:
        # Rounded down: 100% must mean the same text.
        return f"{int(score * 100 + 1e-6)}%"

    def area(self, zone: Zone) -> str:
        return zone.area_th if self.language == "th" else zone.area_en

    def line(self, zone: Zone) -> str:
        numbered = _LINE.fullmatch(zone.line.lower())
        return self.t("place.line", name=numbered[1] if numbered else zone.line.upper())

    def zone(self, zone: Zone) -> str:
        """The zone's own name, without repeating the area and line that stand before it."""
        name = zone.name_th if self.language == "th" else zone.name_en
        rest = name
        for before in (self.area(zone), self.line(zone)):
            # Thai has no spaces between words: only what stands apart repeats the area, the rest is part of a name.
            if rest.lower().startswith(before.lower()) and rest[len(before) : len(before) + 1] in ("", " ", ","):
                rest = rest[len(before) :].lstrip(" ,:·-")
        return rest[:1].upper() + rest[1:] if rest else name

    def place(self, case: Case) -> str:
        """area › line › zone."""
        zone = case.zone
        if zone is None:
            return case.zone_id or self.t("place.unknown")
        # A line without a number is a name for programs (`inbound`, `air`): to people the zone says more.
        line = (self.line(zone),) if any(letter.isdigit() for letter in zone.line) else ()
        return " › ".join((self.area(zone), *line, self.zone(zone)))

    def date(self, day: date) -> str:
        """21 Nov 2026 of a day that has no time."""
        year = day.year + 543 if self.language == "th" else day.year
        return f"{day.day} {_MONTHS[self.language].split()[day.month - 1]} {year}"

    def short_place_of(self, zone: Zone) -> str:
        return zone.name_th if self.language == "th" else zone.name_en

    def short_place(self, case: Case) -> str:
        zone = case.zone
        if zone is None:
            return case.zone_id or self.t("place.unknown")
        return self.short_place_of(zone)


def speech(language: str) -> str:
    """The `lang` attribute of a text. Mixed texts are set as Thai: its line breaking also serves Latin words."""
    return "en" if language == "en" else "th"
