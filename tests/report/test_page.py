"""The page in a browser: what it shows, at several widths, in light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The contrast of each visible text with what lies behind it, by the formula of WCAG 2; and that of the curves.
CONTRASTS = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgba(colour) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
}
function light(colour) {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgba(colour).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function behind(element) {
  for (let each = element; each; each = each.parentElement) {
    const colour = getComputedStyle(each).backgroundColor;
    if (rgba(colour)[3] > 200) return colour;
  }
  return getComputedStyle(document.body).backgroundColor;
}
function contrast(colour, element) {
  const [a, b] = [light(colour), light(behind(element))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}
const texts = [...document.querySelectorAll(arguments[0])].filter((each) => each.textContent.trim());
const found = texts.map((each) => {
  const style = getComputedStyle(each);
  const colour = each instanceof SVGElement ? style.fill : style.color;
  return [contrast(colour, each.closest("figure") ?? each), each.textContent];
});
const drawn = document.querySelectorAll("figure.curves [data-strategy] > path[style*='stroke: var(--s']");
const lines = [...drawn].map((each) => [
  contrast(getComputedStyle(each).stroke, each.closest("figure")), each.closest("[data-strategy]").dataset.strategy,
]);
return [found, lines];
"""
TEXTS = "h1, h2, h3, p, li, td, dt, dd, th button, .chips i, .run span, #chooser label, figcaption, .curves svg text, a"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    paths = [shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")]
    if None in paths:
        pytest.skip("there is no Chromium, or no chromedriver: Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for argument in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('profile')}",
        "window-size=1500,1000",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(paths[1]))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: Any, report: Path) -> Iterator[Any]:
    """The browser, which shows the page as it is at first."""
    driver.get((report / "report.html").as_uri())
    driver.execute_script("localStorage.clear()")
    driver.refresh()
    yield driver
    assert driver.get_log("browser") == []
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {})


def click(browser: Any, place: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", place)


def resize(browser: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def colours(browser: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def column(browser: Any, place: str, number: int) -> list[str]:
    return browser.execute_script(
        "const [place, number] = arguments;"
        "return [...document.querySelectorAll(place)].map((row) => row.children[number].innerText.split('\\n')[0])",
        place,
        number,
    )


def test_strategies_are_shown_and_hidden(browser: Any) -> None:
    def shown(strategy: str) -> set[bool]:
        script = "return [...document.querySelectorAll(arguments[0])].map((g) => getComputedStyle(g).display != 'none')"
        found = browser.execute_script(script, f"svg [data-strategy='{strategy}']")
        assert found
        return set(found)

    assert shown("gdas") == shown("darts") == {True}
    click(browser, "#chooser input[value=gdas]")
    assert (shown("gdas"), shown("advantage")) == ({False}, {True})
    click(browser, "[data-set=dense]")
    assert (shown("darts"), shown("advantage")) == ({True}, {False})
    click(browser, "[data-set=all]")
    assert shown("gdas") == shown("advantage") == {True}


def test_tables_and_runs_are_sorted(browser: Any) -> None:
    place = "#table2 tbody tr"
    click(browser, "#table2 .titles th:nth-child(3) button")  # the mean
    means = [float(text.split()[0]) for text in column(browser, place, 2) if text != "–"]
    assert means == sorted(means)
    assert len(means) == 3
    click(browser, "#table2 .titles th:nth-child(3) button")
    texts = column(browser, place, 2)
    assert [float(text.split()[0]) for text in texts[:3]] == means[::-1]
    assert set(texts[3:]) == {"–"}  # empty ones stay last
    click(browser, "#runs .heads button:nth-child(3)")
    seeds = column(browser, ".run > summary", 2)
    assert seeds == sorted(seeds)
    assert len(set(seeds)) == 3


def test_runs_are_filtered_and_opened(browser: Any) -> None:
    field = browser.find_element("id", "filter")
    field.send_keys("gdas toy")
    rows = browser.find_elements("css selector", ".run")
    assert sum(row.is_displayed() for row in rows) == 3
    assert browser.find_element("id", "shown").text == f"3 of {len(rows)} runs"
    assert not browser.find_element("id", "nothing").is_displayed()
    field.send_keys(" nowhere")
    assert browser.find_element("id", "nothing").text.startswith("No run has all of these words.")
    field.clear()
    field.send_keys("unfinished mine")
    (row,) = [row for row in rows if row.is_displayed()]
    assert row.rect["height"] < 60  # one line
    row.find_element("css selector", "summary").click()
    text = row.find_element("css selector", "dl").text
    assert "Folder" in text
    assert "genotype.json" in text
    assert "0→1" in text


def test_values_stand_beside_the_pointer(browser: Any) -> None:
    actions = pytest.importorskip("selenium.webdriver").ActionChains(browser)
    tip = browser.find_element("id", "tip")
    panel = browser.find_element("css selector", "#fig2 .panels svg")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", panel)
    actions.move_to_element(panel).perform()
    head, *lines = tip.text.splitlines()
    assert head.startswith("epoch ")
    assert {"AdvantageNAS", "GDAS"} <= set(lines)
    epoch = int(head.split()[1])
    script = "return JSON.parse(document.querySelector('#fig2 script').textContent)[0].curves"
    points = {curve["strategy"]: curve["points"] for curve in browser.execute_script(script)}
    (value,) = [point[4] for point in points["gdas"] if point[2] == epoch]
    assert lines[lines.index("GDAS") + 1].startswith(f"{value:.4g}")
    dot = browser.find_element("css selector", ".strip i")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", dot)
    actions.move_to_element(dot).perform()
    assert "seed" in tip.text


@pytest.mark.parametrize("width", [390, 1024, 1400])
def test_nothing_is_wider_than_the_page(width: int, browser: Any) -> None:
    resize(browser, width)
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    page, window = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert page <= window == width
    script = """
      return [...document.querySelectorAll("main *")].filter((each) => {
        const style = getComputedStyle(each);
        return ["auto", "scroll"].includes(style.overflowX) && each.scrollWidth > each.clientWidth + 1;
      }).map((each) => each.className)
    """
    assert browser.execute_script(script) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(scheme: str, browser: Any) -> None:
    colours(browser, scheme)
    texts, lines = browser.execute_script(CONTRASTS, TEXTS)
    assert len(texts) > 200
    assert [text for contrast, text in texts if contrast < 4.5] == []
    assert {name for _, name in lines} == {"advantage", "gdas", "darts", "mine<b>"}
    assert [name for contrast, name in lines if contrast < 2.9] == []
    dark = browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches")
    assert dark == (scheme == "dark")


def test_the_button_turns_the_colours(browser: Any) -> None:
    def paper() -> str:
        return browser.execute_script("return getComputedStyle(document.querySelector('#runs')).backgroundColor")

    colours(browser, "light")
    light = paper()
    click(browser, "#theme")
    assert paper() == light
    click(browser, "#theme")
    dark = paper()
    assert dark != light
    browser.refresh()
    assert paper() == dark  # it is kept
    colours(browser, "dark")
    browser.execute_script("localStorage.setItem('theme', 'light')")
    browser.refresh()
    assert paper() == light


def test_the_summary_says_what_was_found(browser: Any) -> None:
    texts = [each.text for each in browser.find_elements("css selector", "#summary article")]
    (cifar10,) = [text for text in texts if text.upper().startswith("CIFAR-10")]
    assert "DARTS is best with 93." in cifar10
    assert "Likely, but not sure" in cifar10
    assert "p = 0.25" in cifar10
    toy = [text for text in texts if text.startswith("Toy task")]
    assert any("of 10 edges right" in text and "2 epochs (paper: 20)" in text for text in toy)
    (note,) = [each for each in browser.find_elements("css selector", "#notes li") if "left out" in each.text]
    assert note.text.startswith("1 folder is left out")
    kinds = [each.text for each in browser.find_elements("css selector", "#fig1 .dashes li")]
    assert sorted(kinds) == ["2 epochs", "the paper's settings"]
