"""Which preview of a request is shown, and how."""

import asyncio
import io
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from sdserver.api.answer.answer import Encoded
from sdserver.api.entry import Entry
from sdserver.api.options import Options
from sdserver.api.previews import latest_preview
from sdserver.api.services import Services
from sdserver.jobs.events import Finished, Picture, Previewed, Started
from tests.api.test_api_board import Hand, engine_of, jobs_of


class Stage:
    """An entry of three jobs that begin, and the options."""

    def __init__(self, options: Options, workers: ThreadPoolExecutor) -> None:
        self.options, self.encodings = options, 0
        self._workers = workers
        self.entry, hand = Entry("a", "r", "txt2img", "0"), Hand()
        self.ticket = self.entry.submit(engine_of(hand), jobs_of("a", 3))
        for job in self.ticket.jobs:
            self.ticket.observe(Started(job.id))

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        self.encodings += 1
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    def show(self, job: int, colour: int, size: int = 8) -> None:
        picture = Picture(size, size, bytes([colour]) * (3 * size * size))
        self.ticket.observe(Previewed(f"a/{job}", 1, picture))

    async def latest(self) -> Encoded | None:
        return await latest_preview(cast(Services, self), self.entry)

    async def image(self) -> Image.Image:
        found = await self.latest()
        assert found is not None
        return Image.open(io.BytesIO(found.data))


Act = Callable[[Stage], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[[Act], None]]:
    with ThreadPoolExecutor(1) as workers:

        async def run(act: Act) -> None:
            await act(Stage(Options(tmp_path / "config.json"), workers))

        yield lambda act: asyncio.run(run(act))


def test_none_before_the_first_and_after_the_end(play: Callable[[Act], None]) -> None:
    async def act(stage: Stage) -> None:
        assert await stage.latest() is None
        stage.show(0, 9)
        assert await stage.latest() is not None
        stage.entry.end("completed")
        assert await stage.latest() is None
        assert stage.entry.preview_file is None

    play(act)


def test_several_are_a_grid_or_the_first_alone(play: Callable[[Act], None]) -> None:
    async def act(stage: Stage) -> None:
        stage.show(0, 10)
        assert (await stage.image()).size == (8, 8)
        stage.show(1, 20)
        stage.show(2, 30, size=6)
        grid = await stage.image()
        assert grid.size == (16, 16)
        assert [grid.getpixel(at) for at in ((0, 0), (8, 0), (0, 8))] == [(10,) * 3, (20,) * 3, (30,) * 3]
        stage.options.apply({"show_progress_grid": False})
        alone = await stage.image()
        assert (alone.size, alone.getpixel((0, 0))) == ((8, 8), (10,) * 3)

    play(act)


@pytest.mark.parametrize(
    ("option", "found"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("bmp", "PNG")]
)
def test_formats(play: Callable[[Act], None], option: str, found: str) -> None:
    async def act(stage: Stage) -> None:
        stage.options.apply({"live_previews_image_format": option})
        stage.show(0, 9)
        assert (await stage.image()).format == found

    play(act)


def test_one_preview_is_encoded_once(play: Callable[[Act], None]) -> None:
    async def act(stage: Stage) -> None:
        stage.show(0, 9)
        for _ in range(3):
            await stage.image()
        assert stage.encodings == 1
        stage.show(0, 10)
        assert (await stage.image()).getpixel((0, 0)) == (10,) * 3
        stage.ticket.observe(Finished("a/1", Picture(1, 1, b"abc")))
        await stage.image()
        assert stage.encodings == 2

    play(act)


def test_options_that_switch_them_off(play: Callable[[Act], None]) -> None:
    async def act(stage: Stage) -> None:
        watched: list[Any] = []
        stage.entry.watch = lambda *what: watched.append(what)  # type: ignore[method-assign]
        stage.show(0, 9)
        stage.options.apply({"live_previews_enable": False})
        assert (await stage.latest(), watched) == (None, [])
        stage.options.apply({"live_previews_enable": True, "show_progress_every_n_steps": -1})
        await stage.latest()
        assert watched == []
        for kind, method in (("Full", "full"), ("TAESD", "taesd"), ("Approx NN", "cheap")):
            stage.options.apply({"show_progress_every_n_steps": 3, "show_progress_type": kind})
            await stage.latest()
            assert watched[-1] == (3, method)

    play(act)
