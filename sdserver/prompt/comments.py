"""Comments: from `#` to the end of the line."""

import re

_WHOLE_LINE = re.compile(r"(?:\A|\n)#.*(?:\n|\Z)")
_LINE_END = re.compile(r"#.*(?:\n|\Z)")


def strip_comments(text: str) -> str:
    r"""Remove comments as AUTOMATIC1111 does: a comment and the line ends that enclose it become one `\n`.

    So a comment at the text's end leaves a line end there, and a prompt cannot hold a `#`.
    """
    return _LINE_END.sub("\n", _WHOLE_LINE.sub("\n", text))
