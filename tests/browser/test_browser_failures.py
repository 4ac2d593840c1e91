"""What the page shows of an engine that dies, and of a server that is gone."""

import os
import signal

from node import Node, wait_until

from tests.browser.browsing import ask, expect, generate, shown
from tests.browser.conftest import Visit

RESTARTING = "The engine starts again"


def test_a_dead_engine_is_shown_and_its_job_goes_on(visit: Visit, node: Node) -> None:
    visitor = visit()
    panel = visitor.open("txt2img")
    health = visitor.page.locator(".health")
    expect(health).to_have_text("ready")
    ask(panel, "a red circle", Width=128, Height=128, Sampling_steps=30)
    generate(panel)
    node.wait_running()
    victim = node.engine
    assert victim
    os.kill(victim.pid, signal.SIGKILL)
    expect(health).to_contain_text(RESTARTING)
    assert node.status()["state"] == "restarting"
    expect(panel.get_by_role("progressbar")).to_be_visible()
    wait_until(lambda: node.status()["state"] == "ready")
    expect(health).to_have_text("ready")
    expect(shown(panel)).to_have_attribute("alt", "a red circle")


def test_a_server_out_of_reach_is_shown_until_it_is_back(visit: Visit) -> None:
    visitor = visit()
    visitor.excuse("ERR_INTERNET_DISCONNECTED")
    panel = visitor.open("txt2img")
    visitor.context.set_offline(True)
    health = visitor.page.locator(".health")
    expect(health).to_contain_text("does not answer")
    generate(panel)
    expect(visitor.page.get_by_role("alert")).to_contain_text("Check that it runs")
    visitor.context.set_offline(False)
    expect(health).to_have_text("ready")
    ask(panel, "a green circle", Width=64, Height=64, Sampling_steps=2)
    generate(panel)
    expect(shown(panel)).to_have_attribute("alt", "a green circle")
