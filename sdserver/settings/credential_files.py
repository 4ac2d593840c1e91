"""Files of users and of keys."""

from pathlib import Path

from sdserver.errors import SettingsError
from sdserver.settings import kinds
from sdserver.settings.credential import SHORT_KEY, ApiKey, Credential


def read_users(file: Path) -> tuple[Credential, ...]:
    """The users of a file, `user:password`, separated by commas or lines.

    Raises:
        SettingsError: the file cannot be read, or holds something else, or nothing.
    """
    kind = kinds.credentials()
    assert kind.split is not None  # noqa: S101 - users may always be given more than once
    users = []
    for text in kind.split(_text(file, "users").replace("\n", ",")):
        try:
            user = kind.read(text, file.parent)
        except ValueError as error:
            raise SettingsError(f"The file {file} of users needs {error}.") from None
        assert isinstance(user, Credential)  # noqa: S101 - what this kind reads
        users.append(user)
    if not users:
        raise SettingsError(f"The file {file} of users holds none; write user:password into it.")
    return tuple(dict.fromkeys(users))


def read_keys(file: Path) -> tuple[tuple[ApiKey, ...], tuple[str, ...]]:
    """The keys of a file and what the operator should know of them.

    A line is a key, or a name, a blank or tab, and a key. Empty lines and those that begin with `#`
    are left out.

    Raises:
        SettingsError: the file cannot be read, a line is no key, or there is none.
    """
    keys = []
    short = 0
    for number, line in enumerate(_text(file, "keys").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        key = words[-1]
        if len(words) > 2 or not key.isascii() or not key.isprintable():
            raise SettingsError(f"Line {number} of the file {file} of keys needs a key, or a name and a key.")
        short += len(key) < SHORT_KEY
        keys.append(ApiKey.of(key, words[0] if len(words) == 2 else ""))
    if not keys:
        raise SettingsError(f"The file {file} of keys holds none; write one into each line.")
    if not short:
        return tuple(keys), ()
    told = f"{short} of the keys in {file} can be guessed; give them {SHORT_KEY} characters or more."
    return tuple(keys), (told,)


def read_admin_key(file: Path) -> ApiKey:
    """The key that a file holds.

    Raises:
        SettingsError: the file cannot be read, or holds something else.
    """
    try:
        key = kinds.admin_key().read(_text(file, "the operator's key"), file.parent)
    except ValueError as error:
        raise SettingsError(f"The file {file} of the operator's key needs {error}.") from None
    assert isinstance(key, ApiKey)  # noqa: S101 - what this kind reads
    return key


def _text(file: Path, of: str) -> str:
    try:
        return file.read_text("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"The file {file} of {of} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"The file {file} of {of} is not UTF-8 text.") from None
