"""How the application hears that the server is about to end."""

from collections.abc import Callable


class Closing:
    """Tells once, before connections are closed, that nothing more will come. Lives on the event loop."""

    def __init__(self) -> None:
        self._told: list[Callable[[], None]] = []
        self._has_begun = False

    def then(self, act: Callable[[], None]) -> None:
        """Have this done when it begins; now, where it has begun."""
        if self._has_begun:
            act()
        else:
            self._told.append(act)

    def begin(self) -> None:
        """The server is about to end."""
        self._has_begun = True
        while self._told:
            self._told.pop()()
