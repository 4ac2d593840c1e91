"""The maintenance port's page: what the node does, readable without a script."""

import base64
import hashlib
from html import escape
from pathlib import PurePath

from sdserver.ops.metrics import Load
from sdserver.ops.state import NodeFacts

REFRESH_SECONDS = 5
LINKS = ("status", "metrics", "load", "ready", "live", "startup", "health")
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem}
th{text-align:left;font-weight:normal;color:#666;padding-right:1.5rem;vertical-align:top;white-space:nowrap}
td{overflow-wrap:anywhere}progress{width:100%}nav a{margin-right:1rem}
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}th{color:#999}a{color:#8bf}}
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(facts: NodeFacts, load: Load) -> str:
    """The page as HTML. Links are relative, so that it works behind a proxy's path prefix."""
    rows = "\n".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in _rows(facts, load)
    )
    links = " ".join(f'<a href="{name}">{name}</a>' for name in LINKS)
    return f"""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width">
<meta http-equiv=refresh content={REFRESH_SECONDS}>
<title>sdserver: {escape(facts.phase)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>sdserver: {escape(facts.phase)}</h1>
{_bar(facts)}
<table>
{rows}
</table>
<nav>{links}</nav>
</body>
</html>
"""


def _rows(facts: NodeFacts, load: Load) -> list[tuple[str, str]]:
    rows = [("State", f"{facts.phase} for {duration(facts.phase_age)}")]
    if facts.reason:
        rows.append(("Reason", facts.reason))
    if facts.model is not None:
        model = facts.model
        rows.append(("Model", f"{PurePath(model.checkpoint).name} ({model.family})"))
        threads = "" if model.threads is None else f" ({model.threads} threads)"
        rows.append(("Device", f"{model.device}{threads}, {model.dtype}, loaded in {model.seconds:.1f} s"))
    rows.append(("Queue", f"{load.running} running, {load.waiting} waiting"))
    if facts.uploads is not None:
        waiting, error = facts.uploads.files, facts.uploads.error
        rows.append(("Uploads", f"{waiting} waiting" + (f": {error}" if error else "")))
    rows.append(("Up for", duration(facts.uptime)))
    rows.append(("Engine restarts", str(facts.restarts)))
    if facts.errors:
        last = facts.errors[-1]
        rows.append(("Last error", f"{last.error} {last.id} {duration(last.age)} ago"))
    rows.append(("Version", facts.version))
    return rows


def _bar(facts: NodeFacts) -> str:
    progress = facts.download
    if facts.phase != "downloading" or progress is None:
        return ""
    text = f"{progress.file}: {progress.done / 1e6:.0f} MB"
    bar = "<progress></progress>"
    if progress.total:
        text += f" of {progress.total / 1e6:.0f} MB"
        bar = f"<progress value={int(progress.done)} max={int(progress.total)}></progress>"
    text += f", {progress.speed / 1e6:.1f} MB/s"
    if progress.eta is not None:
        text += f", {duration(progress.eta)} left"
    return f"<p>{escape(text)}<br>{bar}</p>"


def duration(seconds: float) -> str:
    """Seconds for people: "12 s", "3 min 20 s", "5 h 3 min", "2 d 4 h"."""
    whole = max(0, int(seconds))
    for unit, below, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {below}"
    return f"{whole} s"
