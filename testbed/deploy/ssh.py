"""Runs a board's steps over ssh: the system's own client, with the user's own keys and settings."""

import asyncio
import shlex
from collections.abc import Sequence
from pathlib import Path

from skerry.errors import StorageError
from testbed.deploy.inventory import Target
from testbed.deploy.plan import BoardError

OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15")
OUTPUT_BYTES_MAX = 64 << 20
SAID_CHARS_MAX = 600  # of what a failed command said


async def run(
    target: Target, options: Sequence[str], command: str, sends: bytes | Path | None = None, limit_s: float = 900.0
) -> bytes:
    """Run `command` by the board's shell as root, `sends` on its standard input; return its standard output.

    Raises:
        BoardError: the board was not reached, the command failed or took longer than `limit_s`; says what it said.
        StorageError: the file to send cannot be read.
    """
    shell = f"sh -c {shlex.quote(command)}"
    remote = shell if target.user == "root" else f"sudo -n {shell}"
    content = _content(sends)
    process = await asyncio.create_subprocess_exec(
        "ssh",
        *OPTIONS,
        *options,
        *("-p", str(target.port), "-l", target.user, "--", target.address, remote),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(limit_s):
            output, said = await process.communicate(content)
    except TimeoutError as error:
        raise BoardError(f"no end within {limit_s:.0f} s: {command}") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise BoardError(_failure(process.returncode, said))
    if len(output) > OUTPUT_BYTES_MAX:
        raise BoardError(f"more than {OUTPUT_BYTES_MAX >> 20} MiB of output: {command}")
    return output


def _content(sends: bytes | Path | None) -> bytes:
    if not isinstance(sends, Path):
        return sends or b""
    try:
        return sends.read_bytes()
    except OSError as error:
        raise StorageError(f"{sends}: cannot be read: {error.strerror}") from error


def _failure(code: int | None, said: bytes) -> str:
    text = " ".join("".join(one if one.isprintable() else " " for one in said.decode(errors="replace")).split())
    reason = "not reached" if code == 255 else f"ended with {code}"
    return f"{reason}: {text[-SAID_CHARS_MAX:] or 'it said nothing'}"
