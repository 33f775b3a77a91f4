"""Contexts become HTML."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import tzinfo
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from edge import __version__
from edge.dashboard import urls
from edge.dashboard.contexts import Context, Frame
from edge.dashboard.texts import UI_LANGUAGES, Texts, UiLanguage, read_phrases, speech
from edge.search import Why


class Renderer:
    """One template environment per language: a phrase is looked up while the page is written."""

    def __init__(self, web: Path, timezone: Callable[[], tzinfo]) -> None:
        self._static = web / "static"
        self._stamps: dict[str, str] = {}
        phrases = read_phrases(web / "locales")
        self.texts: Mapping[UiLanguage, Texts] = {
            language: Texts(language, phrases[language], timezone) for language in UI_LANGUAGES
        }
        self.environments = {
            language: self._environment(web / "templates", texts) for language, texts in self.texts.items()
        }

    def page(self, context: Context, frame: Frame) -> str:
        values: dict[str, Any] = {field.name: getattr(context, field.name) for field in fields(context)}
        template = self.environments[frame.language].get_template(context.template)
        return template.render(frame=frame, **values)

    def static(self, name: str) -> str:
        """The address of a static file, with a stamp of its content so that browsers may keep it for ever."""
        if name not in self._stamps:
            try:
                content = (self._static / name).read_bytes()
            except OSError:
                # Left out by an incomplete install: the page works without, and the next look may find it.
                return f"/static/{name}"
            self._stamps[name] = hashlib.sha256(content).hexdigest()[:12]
        return f"/static/{name}?v={self._stamps[name]}"

    def _environment(self, folder: Path, texts: Texts) -> Environment:
        environment = Environment(
            loader=FileSystemLoader(folder),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.globals = {
            "t": texts.t,
            "label": texts.label,
            "text": texts,
            "speech": speech,
            "marked": marked,
            "urls": urls,
            "static": self.static,
            "version": __version__,
            "range": range,
        }
        return environment


def marked(text: str, why: Why | None, name: str) -> Markup:
    """The text `name` of a result with the words of the question marked. Everything but the marks is escaped."""
    parts, at = [], 0
    for span in why.marks.get(name, ()) if why else ():
        parts += [escape(text[at : span.start]), Markup("<mark>{}</mark>").format(text[span.start : span.end])]
        at = span.end
    return Markup("").join([*parts, escape(text[at:])])
