"""The suite's search for secrets finds them: a small suite with planted ones, run by a pytest of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from skerry.identity.join_token import JoinToken
from tests.secrets_in_output import SECRETS

TOKEN = JoinToken(bytes(range(32)), b"8 bytes.", b"sixteen bytes 16").text()
ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path, body: str) -> "subprocess.CompletedProcess[str]":
    (folder / "test_planted.py").write_text(f"import logging, os, subprocess, sys\n\n\ndef test_it():\n    {body}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.secrets_in_output", "-p", "no:cacheprovider", "."]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def test_a_join_tokens_text_is_one() -> None:
    assert SECRETS["a join token"].fullmatch(TOKEN)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (f"print({TOKEN!r})", "a join token"),
        (f"logging.getLogger('x').warning('joined with %s', {TOKEN!r})", "a join token"),
        (f"os.write(2, {TOKEN.encode()!r})", "a join token"),
        (f"subprocess.run([sys.executable, '-c', {f'print({TOKEN!r})'!r}])", "a join token"),
        (f"assert {TOKEN!r} == ''", "a join token"),
        ("print('-----BEGIN PRIVATE KEY-----')", "a private key"),
    ],
)
def test_what_holds_a_secret_fails_and_does_not_repeat_it(tmp_path: Path, body: str, found: str) -> None:
    done = run(tmp_path, body)
    assert done.returncode == 1, done.stdout
    assert f"its output holds {found}" in done.stdout
    assert TOKEN not in done.stdout
    assert "BEGIN" not in done.stdout


def test_other_output_is_no_secret(tmp_path: Path) -> None:
    assert run(tmp_path, f"print({TOKEN[:40]!r}, 'BEGIN CERTIFICATE')").returncode == 0
