"""The page in a real browser, in front of a real gateway: what a person does, and what an attacker would."""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.request
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("CRAYON_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
PATIENCE_MS = 60_000
SAMPLES = """I have the flu and cannot come tonight. | absence
My daughter is ill, she misses the lesson today. | absence
I will be away next week, please excuse me. | absence
Please send me the invoice for March. | invoice
There is a mistake in my bill. | invoice
How much do I still owe you? | invoice
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.fail("chromium is not on PATH: install Debian's package, or name it by CRAYON_CHROMIUM")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, gateway: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    found = context.new_page()
    found.set_default_timeout(PATIENCE_MS)
    problems: list[str] = []
    found.on("pageerror", lambda error: problems.append(str(error)))
    found.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    asked: list[str] = []
    found.on("request", lambda request: asked.append(request.url))
    found.goto(gateway)
    found.wait_for_selector("body[data-ready]")
    yield found
    assert problems == []
    assert {url.split("/")[2] for url in asked if not url.startswith(("data:", "blob:"))} == {gateway.split("/")[2]}
    context.close()


def ask(page: Page, text: str, model: str | None = None) -> None:
    before = page.locator(".chip").count()
    if model is not None:
        page.select_option("#model", model)
    page.fill("#question", text)
    page.keyboard.press("Enter")
    page.locator(".chip").nth(before).wait_for()


def set_answer(page: Page, text: str) -> None:
    """Have the echo say something: it answers with what it is asked."""
    ask(page, text, "crayon/server")


def test_a_question_is_answered_and_the_chip_says_who_why_and_what_left(page: Page) -> None:
    ask(page, "Why do we sleep?", "crayon/device")
    chip = page.locator(".chip").first
    assert chip.locator("b").inner_text() == "device"
    assert "nothing left" in chip.inner_text()
    chip.click()
    assert chip.get_attribute("aria-expanded") == "true"
    assert "smollm2-135m-instruct" in page.locator(".details").first.inner_text()


def test_the_other_side_is_asked_and_its_chip_counts_the_bytes(page: Page) -> None:
    ask(page, "say this", "crayon/device")
    page.get_by_role("button", name="Ask the server").click()
    page.locator(".chip.server").wait_for()
    assert "bytes left" in page.locator(".chip.server").inner_text()
    assert page.locator(".message.assistant").count() == 1


def test_an_answer_is_stopped(page: Page) -> None:
    page.select_option("#model", "crayon/device")
    page.fill("#question", "Write a very long story about a whale, and do not stop.")
    page.keyboard.press("Enter")
    page.locator("#stop").wait_for()
    page.locator(".message.assistant .text", has_text=re.compile(r".{10}")).wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("You stopped it here.").wait_for()
    assert page.locator("#send").is_visible()
    ask(page, "Hello", "crayon/server")  # and the next one is answered


def test_a_question_is_edited_and_asked_again(page: Page) -> None:
    ask(page, "first words", "crayon/server")
    page.get_by_role("button", name="Edit").click()
    assert page.input_value("#question") == "first words"
    ask(page, "second words")
    assert page.locator(".message.user .text").all_inner_texts() == ["second words"]
    page.get_by_role("button", name="Ask again").click()
    page.locator(".chip").wait_for()
    assert page.locator(".message.assistant").count() == 1


def test_a_reload_keeps_the_chat_and_a_new_one_forgets_it(page: Page) -> None:
    ask(page, "remember me", "crayon/server")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator(".message.user .text").all_inner_texts() == ["remember me"]
    page.get_by_role("button", name="New chat").click()
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator(".message").count() == 0


@pytest.mark.parametrize(
    "attack",
    ["<img src=x onerror=window.hit=1>", "<script>window.hit=1</script>", "[a link](javascript:window.hit=1)",
     "![picture](https://evil.example/x.png)", "<svg onload=window.hit=1>", '<a href="javascript:window.hit=1">x</a>',
     "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>"],
)  # fmt: skip
def test_what_an_answer_says_stays_text(page: Page, attack: str) -> None:
    set_answer(page, attack)
    text = page.locator(".message.assistant .text").last
    assert text.locator("img, script, svg, iframe, a[href^='javascript']").count() == 0
    for link in text.locator("a").all():
        link.click(trial=True)
    assert page.evaluate("window.hit") is None


def test_markdown_is_shown_and_code_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    set_answer(page, "**bold** and\n```\nprint(1)\n```")
    text = page.locator(".message.assistant .text").last
    assert text.locator("strong").inner_text() == "bold"
    text.locator("pre button").click()
    text.locator("pre button", has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").strip() == "print(1)"


def test_the_lock_keeps_questions_here_and_the_server_is_refused(page: Page) -> None:
    page.click("#lock")
    page.locator("#lock[aria-pressed=true]").wait_for()
    page.select_option("#model", "crayon/device")
    ask(page, "hello")
    assert "nothing left" in page.locator(".chip").last.inner_text()
    page.click("#lock")
    page.locator("#lock[aria-pressed=false]").wait_for()


def test_the_ledger_shows_what_left_and_exports_it(page: Page) -> None:
    ask(page, "this leaves", "crayon/server")
    page.click("nav [data-view=ledger]")
    page.locator("#entries tr").first.wait_for()
    assert "sent (Generate)" in page.locator("#entries").inner_text()
    with page.expect_download() as download:
        page.click("#export")
    lines = [json.loads(line) for line in download.value.path().read_text("utf-8").splitlines()]
    assert any(line["kind"] == "sent" for line in lines)
    assert "this leaves" not in json.dumps(lines)


def test_samples_become_a_customisation_that_answers(page: Page) -> None:
    page.click("nav [data-view=customise]")
    page.fill("#name", "school")
    page.fill("#samples", SAMPLES)
    page.check("#replace")
    page.click("#make")
    page.get_by_text("school: 6 samples").wait_for(timeout=3 * PATIENCE_MS)
    assert "before" in page.locator("#made").inner_text()
    page.click("nav [data-view=chat]")
    assert "crayon/school" in page.locator("#model option").evaluate_all("all => all.map(one => one.value)")
    ask(page, "I am ill and stay at home.", "crayon/school")
    assert page.locator(".message.assistant .text").last.inner_text().strip() in {"absence", "invoice"}


def test_samples_that_are_none_are_named_by_their_line(page: Page) -> None:
    page.click("nav [data-view=customise]")
    page.fill("#name", "wrong")
    page.fill("#samples", "a question | an answer\nno answer here")
    page.click("#make")
    page.get_by_text("Line 2 has no answer").wait_for()


def test_models_are_listed(page: Page) -> None:
    page.click("nav [data-view=models]")
    page.get_by_text("qwen2.5-coder-0.5b-instruct", exact=True).wait_for()


def test_it_is_used_by_keyboard_alone(page: Page) -> None:
    page.keyboard.press("Shift+Tab")
    page.focus("body")
    reached = set()
    for _ in range(15):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.dataset.view || document.activeElement.className"
            )
        )
    assert {"chat", "ledger", "customise", "models", "lock", "question", "model", "private", "send"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, gateway: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(gateway)
    page.wait_for_selector("body[data-ready]")
    ask(page, "# A heading\n\n- a list\n\n```\ncode\n```", "crayon/server")
    page.locator(".chip").click()
    for view in ("chat", "ledger", "customise", "models"):
        page.click(f"nav [data-view={view}]")
        page.wait_for_timeout(300)
        found = Axe().run(page).response["violations"]
        serious = [each["id"] for each in found if each["impact"] in {"serious", "critical"}]
        assert serious == [], view
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
            f"{view} is wider than a phone"
        )
    context.close()


def test_a_gateway_that_is_gone_is_said(browser: Browser, gateway: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(gateway)
    page.wait_for_selector("body[data-ready]")
    context.set_offline(True)
    page.fill("#question", "hello")
    page.keyboard.press("Enter")
    page.get_by_text("the gateway cannot be reached").wait_for()
    context.set_offline(False)
    context.close()


def test_the_page_needs_no_network_but_the_gateway(gateway: str) -> None:
    with urllib.request.urlopen(gateway) as reply:
        assert "script-src 'self'" in reply.headers["content-security-policy"]
