"""Makes the pictures in the README: a run in a terminal, its report, and a sketch of the dashboard.

    make pictures

The run is real (`pomona demo`). The sketch shows the widgets of template.yaml in CloudWatch's layout.
"""

import argparse
import html
import json
import pathlib
import re
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests/browser"))
import chromium  # noqa: E402

TERMINAL = """<!doctype html><meta charset=utf-8><style>
body{{margin:0;padding:14px 18px;background:#161b18;color:#dbe4de;font:14px/1.35 'DejaVu Sans Mono',monospace;width:max-content}}
pre{{margin:0;font:inherit}} b{{color:#7fd0a4;font-weight:400}}</style><pre>{text}</pre>"""
DASHBOARD = """<!doctype html><meta charset=utf-8><style>
body{{margin:0;padding:12px;width:1100px;background:#f2f4f3;font:13px/1.4 system-ui,sans-serif;color:#1e2421}}
main{{display:grid;grid-template-columns:repeat(24,1fr);gap:8px}}
section{{background:#fff;border:1px solid #d5dbd7;border-radius:4px;padding:8px 10px}} h2{{font-size:13px;margin:0 0 4px}}
svg{{width:100%;height:90px;background:#f8faf9}} li{{list-style:none}} ul{{margin:4px 0 0;padding:0;font-size:11px;color:#5a645e}}
i{{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:5px}}</style><main>{widgets}</main>"""
COLOURS = ["#2f6e4f", "#1f77b4", "#d0343a", "#e67e22", "#8a5cbe", "#5e6978"]


def terminal(pomona, folder):
    """The output of the demo, with the command."""
    printed = subprocess.run([pomona, "demo"], cwd=folder, capture_output=True, text=True, check=True).stdout
    return TERMINAL.format(text=f"<b>$ pomona demo</b>\n{html.escape(printed)}")


def dashboard():
    body = re.search(r"DashboardBody: !Sub \|\n((?: {8}.*\n)+)", (ROOT / "template.yaml").read_text()).group(1)
    body = re.sub(r"\$\{AWS::StackName\}", "pomona", re.sub(r"\$\{(?!AWS)(\w+)\}", r"\1", body))
    widgets = []
    for widget in json.loads(body)["widgets"]:
        properties = widget["properties"]
        names, lines = [], []
        for i, metric in enumerate(properties["metrics"]):
            options = metric[-1] if isinstance(metric[-1], dict) else {}
            name = options.get("label") or f"{metric[1]} {metric[3]}".replace("pomona-", "").replace(" Pipeline", "")
            colour = COLOURS[i % len(COLOURS)]
            names.append(f"<li><i style='background:{colour}'></i>{html.escape(name)}</li>")
            lines.append(f"<path d='M0 {78 - 9 * i} H300' stroke='{colour}' stroke-dasharray='2 5' fill='none'/>")
        widgets.append(f"<section style='grid-column:{widget['x'] + 1}/span {widget['width']}'><h2>{html.escape(properties['title'])}</h2>"
                       f"<svg viewBox='0 0 300 90' preserveAspectRatio='none'>{''.join(lines)}</svg><ul>{''.join(names)}</ul></section>")
    return DASHBOARD.format(widgets="".join(widgets))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pomona", type=pathlib.Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        folder = pathlib.Path(folder)
        browser = chromium.launch(playwright)
        for name, text in (("terminal", terminal(args.pomona.resolve(), folder)), ("dashboard", dashboard())):
            page = browser.new_page(viewport={"width": 900, "height": 300})
            page.set_content(text)
            page.locator("body").screenshot(path=HERE / f"{name}.png")
            page.close()
        (report,) = folder.glob("pomona-demo/results/report.html")
        page = browser.new_page(viewport={"width": 1000, "height": 1360})
        page.goto(report.as_uri())
        page.wait_for_selector("body[data-ready]")
        page.locator(".scatter canvas").first.press("ArrowRight")
        page.evaluate("document.querySelectorAll('.scatter')[1].remove(); scrollTo(0, document.querySelector('#map').offsetTop - 20)")
        page.wait_for_timeout(200)
        page.screenshot(path=HERE / "report.png")
        browser.close()
    print("\n".join(str(path.relative_to(ROOT)) for path in sorted(HERE.glob("*.png"))))


if __name__ == "__main__":
    main()
