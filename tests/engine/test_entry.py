"""How an engine process begins."""

import subprocess
import sys


def test_importing_makes_no_work_for_the_collector() -> None:
    """In a process of its own: the module is imported for the first time."""
    code = (
        "import gc\n"
        "passes = []\n"
        "gc.callbacks.append(lambda phase, info: passes.append(info))\n"
        "from sdserver.engine import entry\n"
        "passes.clear()\n"
        "module = entry.process()\n"
        "assert module.__name__ == 'sdserver.engine.process'\n"
        "assert not passes, len(passes)\n"
        "assert gc.isenabled()\n"
        "assert gc.get_freeze_count() > 100_000, gc.get_freeze_count()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
