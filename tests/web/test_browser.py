"""What a supervisor sees and does, in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

Open = Callable[..., Page]

PAGES = (
    "/", "/search", "/search?q=conveyor", "/history", "/report", "/quarantine", "/health", "/account", "/people",
    "/cases/ASM-2025-001",
)  # fmt: skip


def card(page: Page, text: str) -> Any:
    return page.locator(".card", has_text=text)


def test_a_person_signs_in_and_out(visit: Open) -> None:
    page = visit("supervisor")
    expect(page).to_have_title(re.compile("Live board"))
    page.click(".menu summary")
    page.click("text=Sign out")
    expect(page.locator("h1")).to_have_text("Sign in")
    page.goto("/history")
    expect(page).to_have_url(re.compile(r"/sign-in\?next=%2Fhistory"))


def test_a_published_event_is_on_the_board_with_its_past_within_two_seconds(visit: Open, appliance: Any) -> None:
    page = visit("viewer", language="th")
    started = time.monotonic()
    appliance.report("live-1", "สายพาน CONV-002 หยุดเองบ่อย ขึ้นว่างานติดทั้งที่ไม่มีอะไรติด")
    found = card(page, "ขึ้นว่างานติดทั้งที่ไม่มีอะไรติด")
    expect(found.first).to_be_visible(timeout=5_000)
    expect(found.locator(".past").first).to_be_visible(timeout=5_000)
    took = time.monotonic() - started
    best = found.locator(".past").first
    expect(best.locator(".band")).to_have_text(re.compile("(น่าจะ|อาจ)เป็นปัญหาเดียวกัน"))
    expect(best.locator(".number")).to_have_text(re.compile(r"\d ใน 10"))
    expect(best.locator("dt").nth(1)).to_have_text("วิธีแก้")
    expect(best.locator(".outcome")).to_be_visible()
    assert took < 2.0, f"it took {took:.2f} s"


def test_a_refresh_takes_nothing_out_of_ones_hands(visit: Open, appliance: Any) -> None:
    appliance.report("calm-1", "Robot RB-1 lost its home position after a collision", "welding/robot-1/cell-1")
    page = visit("viewer")
    first = card(page, "lost its home position").first
    first.locator("details summary").click()
    expect(first.locator("details .past").first).to_be_visible()
    page.locator("#ask-here").fill("half a question")
    page.locator("#ask-here").focus()
    page.evaluate("window.scrollTo(0, 120)")
    before = page.evaluate("scrollY")
    node = first.element_handle()
    appliance.report("calm-2", "Compressor room is very hot today", "utilities/air/comp-room")
    expect(card(page, "Compressor room is very hot").first).to_be_visible(timeout=5_000)
    assert card(page, "Compressor room is very hot").first.evaluate("n => n.classList.contains('is-new')")
    assert node.evaluate("n => n.isConnected && n.querySelector('details').open")
    assert page.evaluate("document.activeElement.id") == "ask-here"
    assert page.locator("#ask-here").input_value() == "half a question"
    # The browser itself may hold what one reads in place while a card comes in above it.
    assert page.evaluate("scrollY") >= before


def test_the_same_alarm_again_counts_up_on_its_card(visit: Open, appliance: Any) -> None:
    page = visit("viewer")
    appliance.report("again-1", "ปั๊มน้ำหล่อเย็นดัง")
    expect(card(page, "ปั๊มน้ำหล่อเย็นดัง").first).to_be_visible(timeout=5_000)
    appliance.report("again-2", "ปั๊มน้ำหล่อเย็นดัง")
    expect(card(page, "ปั๊มน้ำหล่อเย็นดัง").locator(".times").first).to_contain_text("×2", timeout=5_000)
    assert card(page, "ปั๊มน้ำหล่อเย็นดัง").count() == 1


def test_an_area_stays_chosen_while_the_board_refreshes(visit: Open, appliance: Any) -> None:
    page = visit("viewer", "/?area=warehouse")
    appliance.report("area-1", "Dock leveller stuck half way", "warehouse/inbound/dock-1")
    expect(card(page, "Dock leveller stuck half way").first).to_be_visible(timeout=5_000)
    appliance.report("area-2", "Screwdriver SD-03 shows red", "assembly/line-1/cell-1")
    expect(page.locator("#area-assembly .chip-count")).to_be_visible(timeout=5_000)
    page.wait_for_timeout(1_200)
    expect(card(page, "Screwdriver SD-03 shows red")).to_have_count(0)
    expect(page.locator("#area-warehouse")).to_have_attribute("aria-current", "true")


def test_asking_in_one_language_finds_the_other_while_typing(visit: Open) -> None:
    page = visit("viewer", "/search")
    page.locator("#q").press_sequentially("สายพาน CONV-002 หยุดเองบ่อย", delay=5)
    expect(page.locator("#results .past").first).to_be_visible(timeout=5_000)
    expect(page.locator("#results")).to_contain_text("English")
    expect(page).to_have_url(re.compile(r"/search\?q=%E0%B8%AA"))
    assert "zone=" not in page.url
    page.locator("#filters summary").click()
    page.select_option("[name=language]", "en")
    expect(page).to_have_url(re.compile("language=en"))
    expect(page.locator("#results .past .spoken").first).to_have_text("English")
    page.reload()
    expect(page.locator("#q")).to_have_value("สายพาน CONV-002 หยุดเองบ่อย")
    expect(page.locator("[name=language]")).to_have_value("en")


def test_asking_works_without_scripts(visit: Open) -> None:
    page = visit("viewer", "/search", script=False)
    page.fill("#q", "conveyor stops by itself")
    page.press("#q", "Enter")
    expect(page.locator("#results .past").first).to_be_visible()


def test_a_case_is_closed_with_the_fix_of_a_past_one_and_found_by_it(visit: Open, appliance: Any) -> None:
    appliance.report("close-1", "SEAL-04 ซองรั่วด้านซ้าย บีบแล้วลมออก", "packaging/line-1/cell-1", "high")
    page = visit("supervisor")
    card(page, "ซองรั่วด้านซ้าย บีบแล้วลมออก").locator(".now-what a").first.click()
    page.click("text=I take this case")
    expect(page.locator(".notice")).to_contain_text("You have taken this case")
    page.locator("[data-use-fix]").first.click()
    expect(page.locator("[name=root_cause]")).not_to_have_value("")
    expect(page.locator("[data-close-hint]")).to_contain_text("Taken over from")
    assert page.evaluate("document.activeElement.name") == "resolution"
    page.fill("[name=root_cause]", "สปริงปากซีลหักข้างซ้าย")
    page.fill("[name=resolution]", "เปลี่ยนสปริงปากซีลเบอร์ 7 ทั้งคู่")
    page.locator(".segment", has_text="Fix held").click()
    page.locator("[data-close-form] button").click()
    expect(page.locator(".solved")).to_contain_text("เปลี่ยนสปริงปากซีลเบอร์ 7")
    page.goto("/search?q=เปลี่ยนสปริงปากซีลเบอร์ 7 ทั้งคู่")
    deadline = time.monotonic() + 2
    while "สปริงปากซีลหักข้างซ้าย" not in page.locator("#results").inner_text():
        assert time.monotonic() < deadline, "closed, but not found by its fix within two seconds"
        page.reload()
    expect(page.locator("#results .past").first).to_contain_text("เปลี่ยนสปริงปากซีลเบอร์ 7")


def test_reporting_takes_three_taps(visit: Open) -> None:
    page = visit("supervisor", "/report", width=360)
    page.keyboard.type("น้ำมันหยดใต้เครื่อง INJ-04")
    page.select_option("[name=zone]", "INJ-1")
    page.click("form.panel button")
    expect(page.locator(".notice")).to_contain_text("Reported")
    expect(page.locator(".case-side .past").first).to_be_visible()


def test_the_language_changes_in_place(visit: Open) -> None:
    page = visit("viewer", "/history?outcome=held", language="th")
    expect(page.locator("html")).to_have_attribute("lang", "th")
    expect(page.locator("h1")).to_have_text("เคสที่ปิดแล้ว")
    assert re.search(r"25\d\d", page.locator(".row time").first.inner_text()), "a Thai page counts Buddhist years"
    page.click(".language button")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("h1")).to_have_text("Closed cases")
    expect(page).to_have_url(re.compile(r"/history\?outcome=held$"))


def test_the_keyboard_is_enough(visit: Open) -> None:
    page = visit("supervisor")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "ask-here"
    page.keyboard.type("/ stays a letter while typing")
    expect(page.locator("#ask-here")).to_have_value("/ stays a letter while typing")
    page.locator("#ask-here").blur()
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("h")
    expect(page).to_have_url(re.compile("/history$"))


def test_a_board_that_cannot_refresh_says_so_and_recovers(visit: Open) -> None:
    page = visit("viewer")
    expect(page.locator("#trouble")).to_be_hidden()
    page.route("**/board?*", lambda route: route.abort())
    expect(page.locator("#trouble")).to_contain_text("No connection", timeout=6_000)
    page.unroute("**/board?*")
    expect(page.locator("#trouble")).to_be_hidden(timeout=6_000)
    page.complaints[:] = [line for line in page.complaints if "ERR_FAILED" not in line]  # type: ignore[attr-defined]


@pytest.mark.parametrize("language", ["th", "en"])
@pytest.mark.parametrize("width", [360, 768, 1440, 2560])
def test_no_page_scrolls_sideways_and_everything_can_be_touched(visit: Open, width: int, language: str) -> None:
    page = visit("admin", "/health", width=width, language=language)
    for path in PAGES:
        page.goto(path)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        out = page.evaluate(
            """() => [...document.querySelectorAll("main *")]
              .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
              .map((node) => node.outerHTML.slice(0, 150))"""
        )
        assert wide <= 0, f"{path} is {wide} px too wide at {width} px: {out[-3:]}"
        small = page.evaluate(
            """() => [...document.querySelectorAll("button, summary, select, textarea, .button, .chip, .nav a")]
              .filter((node) => node.offsetParent && !node.closest("dialog"))
              .filter((node) => node.getBoundingClientRect().height < 43.5)
              .map((node) => node.outerHTML.slice(0, 100))"""
        )
        assert not small, f"{path}: {small}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(visit: Open, appliance: Any, scheme: str) -> None:
    """WCAG AA: 4.5 to 1, and 3 to 1 for large text."""
    appliance.report(f"contrast-{scheme}", "Critical test of contrast", severity="critical")
    page = visit("admin", "/health")
    page.emulate_media(color_scheme=scheme)
    for path in PAGES:
        page.goto(path)
        page.wait_for_timeout(100)
        poor = page.evaluate(CONTRAST)
        assert not poor, f"{path} in {scheme}: {poor[:5]}"


CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
      if (a > 0) layers.unshift([r, g, b, a]);
    }
    const over = ([r, g, b], [x, y, z, a]) => [r + (x - r) * a, g + (y - g) * a, b + (z - b) * a];
    return layers.reduce(over, [255, 255, 255]);
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.nodeValue.trim());
    if (!own || !node.offsetParent || node.closest(".visually-hidden, .skip, option, dialog, .is-new")) continue;
    const style = getComputedStyle(node);
    const [one, two] = [luminance(parse(style.color)), luminance(ground(node))].sort((x, y) => y - x);
    const ratio = (one + 0.05) / (two + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const what = `${node.className} ${node.textContent.trim().slice(0, 30)}`;
    if (ratio < (large ? 3 : 4.5)) poor.push(`${ratio.toFixed(2)} ${what}`);
  }
  return poor;
}"""
