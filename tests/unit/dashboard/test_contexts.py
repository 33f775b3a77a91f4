"""Each template is given one documented dataclass: it uses all of it, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
from jinja2 import Environment, FileSystemLoader, meta
from markupsafe import escape

from edge.config import resources
from edge.dashboard.contexts import PAGES, Context
from edge.dashboard.render import Renderer, marked
from edge.search import Span, Why

TEMPLATES = resources() / "web" / "templates"


def undeclared(environment: Environment, name: str) -> set[str]:
    """What a template and everything it includes or extends reads from outside."""
    found: set[str] = set()
    todo, seen = [name], set()
    while todo:
        current = todo.pop()
        seen.add(current)
        tree = environment.parse((TEMPLATES / current).read_text("utf-8"))
        found |= meta.find_undeclared_variables(tree)
        todo += [other for other in meta.find_referenced_templates(tree) if other and other not in seen]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_template_and_context_agree(page: type[Context]) -> None:
    renderer = Renderer(resources() / "web", lambda: dataclasses.MISSING)  # type: ignore[arg-type, return-value]
    environment = renderer.environments["en"]
    # `ui` is imported by the base before the blocks that use it.
    outside = undeclared(environment, page.template) - set(environment.globals) - {"frame", "ui"}
    fields = {field.name for field in dataclasses.fields(page)}
    assert outside <= fields, f"{page.template} reads what {page.__name__} does not give"
    assert fields <= outside, f"{page.__name__} gives what {page.template} does not read"


def test_every_template_is_some_page_or_part_of_one() -> None:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    pages = {page.template for page in PAGES}
    assert set(environment.list_templates()) - pages == {"_base.html", "_macros.html"}


def test_templates_carry_no_script_and_no_style() -> None:
    """The content security policy would stop them; this says so before a browser does."""
    for file in TEMPLATES.rglob("*.html"):
        source = file.read_text("utf-8")
        assert " style=" not in source, file.name
        assert "hx-on" not in source, file.name
        assert "<style" not in source, file.name
        assert "|safe" not in source, file.name
        for tag in source.split("<script")[1:]:
            assert tag.startswith(' src="{{ static('), file.name


def test_marks_never_let_anything_of_a_text_become_markup() -> None:
    text = '<b>ปั๊ม</b> & "P-204" <script>รั่ว'
    why = Why(marks={"symptom": (Span(3, 7), Span(text.index("P-204"), text.index("P-204") + 5))})
    shown = str(marked(text, why, "symptom"))
    assert "&lt;b&gt;<mark>ปั๊ม</mark>&lt;/b&gt; &amp;" in shown
    assert "<mark>P-204</mark>" in shown
    assert "<script" not in shown
    assert str(marked(text, why, "cause")) == str(marked(text, None, "symptom")) == str(escape(text))
