"""Kaggle through its official client: download, submit, read the scores. Each failure is one line with the way out.

    download("competitions/tgs-salt-identification-challenge", Path("data/tgs/.raw.zip"))

The client finds its credentials by itself. Nothing here reads, prints or stores them, and what the client or Kaggle
says is shown only without them.
"""

import contextlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from disk import remove
from errors import UserError

if TYPE_CHECKING:
    from kaggle import KaggleApi
    from requests import Response

T = TypeVar("T")
SITE = "https://www.kaggle.com"
ATTEMPTS = 5  # without any progress between them
LONGEST_WAIT = 3600.0  # seconds that Kaggle may ask to wait, all together
CREDENTIALS = (
    f"make an API token at {SITE}/settings/api and put it into the variable KAGGLE_API_TOKEN or the file "
    "~/.kaggle/access_token"
)


class BrokenConnection(UserError):
    """The connection, or Kaggle itself, failed: the same call may work in a moment."""


@dataclass(frozen=True)
class Submission:
    """One submission as the competition lists it; a score that is not shown (yet) is None."""

    ref: int
    description: str
    status: str  # pending, complete or error
    public: float | None
    private: float | None
    fault: str


def download(source: str, archive: Path) -> None:
    """Download all files of `competitions/NAME` or `datasets/OWNER/NAME` as the zip `archive`.

    What an earlier try left is gone on with, if Kaggle still has the same file. Raises UserError.
    """
    api, part = sign_in(), archive.with_name(f"{archive.name}.part")
    archive.parent.mkdir(parents=True, exist_ok=True)
    attempt, furthest = 0, _size(part)
    while not archive.is_file():
        try:
            _ask(source, lambda: _fetch(api, source, part))
            os.replace(part, archive)
        except BrokenConnection as error:
            attempt = 1 if _size(part) > furthest else attempt + 1
            furthest = max(furthest, _size(part))
            if attempt == ATTEMPTS:
                raise
            print(f"{str(error).partition(';')[0]}; going on at {_size(part) / 1e6:.1f} MB", file=sys.stderr)
            time.sleep(2 ** (attempt - 1))


def submit_file(source: str, path: Path, message: str) -> None:
    """Submit a file to `competitions/NAME`. Raises UserError."""
    api = sign_in()
    answer = _ask(source, lambda: api.competition_submit(str(path), message, _name(source), quiet=True))
    if answer.message == api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
        raise UserError(f"{path}: the upload to Kaggle failed and nothing was submitted; start again")


def list_submissions(source: str) -> list[Submission]:
    """The latest submissions to `competitions/NAME`, at most 100. Raises UserError."""
    api = sign_in()
    listed = _ask(source, lambda: api.competition_submissions(_name(source), page_size=100)) or []
    return [
        Submission(
            one.ref,
            one.description,
            one.status.name.lower(),
            _score(one.public_score),
            _score(one.private_score),
            one.error_description,
        )
        for one in listed
    ]


def sign_in() -> "KaggleApi":
    """The client with its credentials. Raises UserError where there are none or they are refused."""
    for name in ("VERBOSE", "VERBOSE_OUTPUT"):
        os.environ.pop(name, None)  # the client would print each request with the token in it
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import kaggle  # tries to sign in, and keeps its failures to itself
    except OSError as error:  # it makes a folder for its settings
        raise UserError(f"{error.filename}: {error.strerror}; let KAGGLE_CONFIG_DIR name another") from None

    if "auth_method" in kaggle.api.config_values:
        return kaggle.api
    try:
        _ask("", kaggle.api.authenticate)
    except SystemExit:
        from kagglesdk import get_access_token_from_env

        place = get_access_token_from_env()[1]
        reason = f"Kaggle refused the token in {place}" if place else "no Kaggle credentials on this machine"
        raise UserError(f"{reason}; {CREDENTIALS}") from None
    return kaggle.api


def _ask(source: str, call: Callable[[], T]) -> T:
    """Make a call of the client without its chatter, waiting as long as Kaggle asks to. Raises UserError."""
    from requests.exceptions import HTTPError, RequestException

    waited = 0.0
    while True:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return call()
        # from None: the client's own words may hold signed addresses
        except HTTPError as error:
            pause = _asked_pause(error.response) if error.response.status_code == 429 else LONGEST_WAIT + 1.0
            if waited + pause > LONGEST_WAIT:
                raise _explain(source, error.response, pause) from None
        except RequestException as error:
            raise BrokenConnection(
                f"{source or 'signing in'}: the connection to Kaggle broke ({type(error).__name__}); the same command "
                "goes on from there"
            ) from None
        print(f"Kaggle asks to wait {pause:.0f} s (429)", file=sys.stderr)
        time.sleep(pause)
        waited += pause


def _fetch(api: "KaggleApi", source: str, part: Path) -> None:
    """One try to download the rest of a file. The client appends only to bytes of the same file."""
    from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest
    from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

    with api.build_kaggle_client() as client:
        if source.startswith("competitions/"):
            request = ApiDownloadDataFilesRequest()
            request.competition_name = _name(source)
            response = client.competitions.competition_api_client.download_data_files(request)
        else:
            request = ApiDownloadDatasetRequest()
            request.owner_slug, request.dataset_slug = _name(source).split("/")
            response = client.datasets.dataset_api_client.download_dataset(request)
        with contextlib.closing(response):
            _check_space(source, part, int(response.headers.get("Content-Length", 0)))
            try:
                quiet = not sys.stderr.isatty()
                api.download_file(response, str(part), client.http_client(), quiet, resume=True, max_retries=0)
            except ValueError:  # the client took an error's page for the rest of the file
                remove(part)
                raise BrokenConnection(f"{source}: the download came out broken and starts anew") from None


def _check_space(source: str, part: Path, size: int) -> None:
    """Raises UserError where the disk cannot hold the archive and, beside it, what is in it."""
    needed, free = 2 * size - _size(part), shutil.disk_usage(part.parent).free
    if needed > free:
        raise UserError(
            f"{source}: the archive is {size / 1e9:.1f} GB, and with its files beside it takes {needed / 1e9:.1f} GB "
            f"or more, but {part.parent} has {free / 1e9:.1f} GB free; free some space and start again, or choose "
            "another --workspace"
        )


def _explain(source: str, response: "Response", pause: float) -> UserError:
    """What an answer that is no success means, and what to do about it."""
    code, page = response.status_code, f"{SITE}/{source}"
    if code == 429:
        return UserError(f"{source}: Kaggle asks to wait {pause / 60:.0f} minutes (429); start again then")
    if code >= 500:
        return BrokenConnection(f"{source}: Kaggle has trouble ({code}); start again later")
    if code == 401:
        return UserError(f"{source or 'signing in'}: Kaggle refused the credentials (401); {CREDENTIALS}")
    if code == 403 and source.startswith("competitions/"):
        way_out = f"join the competition and accept its rules at {page}/rules"
    elif code == 403:
        way_out = f"open {page} while signed in: it may be private or have terms to accept"
    elif code == 404:
        way_out = f"check data.kaggle; {page} should exist"
    else:
        way_out = "mend that and start again"
    return UserError(f"{source}: Kaggle answers {code}{_own_words(response)}; {way_out}")


def _own_words(response: "Response") -> str:
    """What Kaggle says about a failure, in brackets and without the credentials; "" where it says nothing."""
    import kaggle

    try:
        values = response.json()
    except ValueError:
        return ""
    words = " ".join(str(values.get("message", "")).split())[:200] if isinstance(values, dict) else ""
    for name in ("token", "key", "api_token"):
        if secret := kaggle.api.config_values.get(name):
            words = words.replace(secret, "…")
    return f" ({words})" if words else ""


def _asked_pause(response: "Response") -> float:
    """Seconds that a 429 asks to wait: its Retry-After, in seconds or as a date; 30 where there is none."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    given = response.headers.get("Retry-After")
    try:
        return max(1.0, Retry().parse_retry_after(given)) if given else 30.0
    except InvalidHeader:
        return 30.0


def _name(source: str) -> str:
    return source.partition("/")[2]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _score(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
