"""Running a program that answers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

PATIENCE_S = 20.0  # xtables' lock may be held by others for seconds
NOT_FOUND = 127  # as a shell says it


async def run(command: Sequence[str], text: str = "") -> tuple[int, str, str]:
    """Exit code, output and errors of *command*, given *text*. A missing program ends with NOT_FOUND."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        return NOT_FOUND, "", f"{command[0]} is not installed"
    try:
        async with asyncio.timeout(PATIENCE_S):
            output, errors = await process.communicate(text.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        return 1, "", f"{command[0]} gave no answer within {PATIENCE_S:.0f} s"
    return process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace")
