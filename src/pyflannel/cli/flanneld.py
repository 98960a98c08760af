"""The flanneld command."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from pyflannel import __version__
from pyflannel.cli.options import HelpAsked, Options, UsageError, parse, usage
from pyflannel.model.errors import FlannelError

log = logging.getLogger("pyflannel.flanneld")


def main() -> NoReturn:
    """Exit codes: 0 stopped, revoked, help, version; 1 a start that failed; 2 a wrong flag or variable."""
    try:
        options = parse(sys.argv[1:], os.environ)
    except HelpAsked:
        print(usage(), file=sys.stderr)
        sys.exit(0)
    except UsageError as error:
        print(f"flanneld: {error}", file=sys.stderr)
        sys.exit(2)
    if options.version:
        print(f"pyflannel {__version__}", file=sys.stderr)
        sys.exit(0)
    sys.exit(_run(options))


def _run(options: Options) -> int:
    from pyflannel.daemon.logs import set_up
    from pyflannel.daemon.process import run
    from pyflannel.daemon.tenure import Revoked

    set_up(options.log_format, options.v)
    try:
        asyncio.run(run(options))
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 0
    except FlannelError as error:
        _last_words(options, str(error))
        return 2 if isinstance(error, UsageError) else 1
    except PermissionError as error:
        log.error("flanneld needs root, or the capability CAP_NET_ADMIN: %s", error)
        return 1
    except BaseExceptionGroup as group:
        for cause in _leaves(group):
            if isinstance(cause, Revoked):
                log.error("%s. Everything in the kernel stays; a restart takes a new lease", cause)
                return 0
            if isinstance(cause, FlannelError):
                _last_words(options, str(cause))
                return 1
        raise
    return 0


def _last_words(options: Options, text: str) -> None:
    """Log why we end, and leave it for the CNI plugin, which is asked for pods while nobody is here to tell."""
    from pyflannel.wire.files import write_atomically

    log.error("%s", text)
    with contextlib.suppress(OSError):
        write_atomically(Path(options.subnet_file).with_suffix(".error"), f"{text}\n", 0o644)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    main()
