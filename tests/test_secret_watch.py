"""The watch over the suite's logs finds what it is there to find: proven by suites that leak on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
from secret_watch import SecretWatch

LEAKING = """
    def test_a_server_logs_its_token(secret_watch):
        token = secret_watch.watch("head.body.signature-of-it", "access token")
        log = secret_watch.log_file("server")
        log.write_text("started\\nGET /ws?token=" + token + "\\n")

    def test_another():
        pass
"""
TIDY = """
    import subprocess, sys

    def test_a_server_keeps_its_token(secret_watch):
        token = secret_watch.watch("head.body.signature-of-it", "access token")
        with secret_watch.open_log("server") as log:
            subprocess.run([sys.executable, "-c", "print('GET /ws?token=[redacted]')"], stdout=log, check=True)
"""
PLUGINS = ("-p", "secret_watch", "-p", "no:cacheprovider")


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester


def test_a_suite_that_leaks_a_secret_fails_and_names_the_place(suite: pytest.Pytester) -> None:
    suite.makepyfile(LEAKING)
    result = suite.runpytest_subprocess(*PLUGINS)

    result.assert_outcomes(passed=2, errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["secrets in the log:", "0001-server.log:2: access token: GET /ws?token=<LEAKED>"])
    assert "signature-of-it" not in result.stdout.str()


def test_a_leak_in_a_worker_of_xdist_fails_the_whole_run(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_leaking=LEAKING, test_tidy=TIDY)
    result = suite.runpytest_subprocess(*PLUGINS, "-p", "xdist", "-n", "2")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*0001-server.log:2: access token: GET /ws?token=<LEAKED>"])


def test_a_suite_that_keeps_its_secrets_passes(suite: pytest.Pytester) -> None:
    suite.makepyfile(TIDY)

    suite.runpytest_subprocess(*PLUGINS).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "line",
    [
        b"Zm9v+secret/with=signs",
        b"Zm9v%2Bsecret%2Fwith%3Dsigns",
        b'{"password":"Zm9v+secret/with=signs"}',
    ],
)
def test_a_text_is_found_however_it_is_spelled(tmp_path: Path, line: bytes) -> None:
    watch = SecretWatch(tmp_path)
    watch.watch("Zm9v+secret/with=signs", "password")
    watch.log_file("x").write_bytes(b"a\nb\n" + line)

    [leak] = watch.leaks()
    assert leak.startswith("0001-x.log:3: password: ")
    assert "Zm9v" not in leak


@pytest.mark.parametrize(
    "line",
    [b"00ff00ff00ff00fe", b"AP8A_wD_AP4", b"AP8A/wD/AP4=", rb"b'\x00\xff\x00\xff\x00\xff\x00\xfe'", b"\x00\xff\x00\xff\x00\xff\x00\xfe"],
)  # fmt: skip
def test_a_key_is_found_however_it_is_spelled(tmp_path: Path, line: bytes) -> None:
    watch = SecretWatch(tmp_path)
    watch.watch(bytes.fromhex("00ff00ff00ff00fe"), "signing key")
    watch.log_file("x").write_bytes(line)

    assert len(watch.leaks()) == 1


def test_the_signature_of_a_token_is_a_secret_of_its_own(tmp_path: Path) -> None:
    watch = SecretWatch(tmp_path)
    watch.watch("aaaaaaaa.bbbbbbbb.cccccccc", "token")
    watch.log_file("x").write_bytes(b"only cccccccc here")

    assert watch.leaks() == ["0001-x.log:1: token: only <LEAKED> here"]


def test_what_is_too_short_to_search_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a password of under 8 characters"):
        SecretWatch(tmp_path).watch("hunter2", "password")


def test_a_stream_in_this_process_is_searched_while_it_is_open(tmp_path: Path) -> None:
    watch = SecretWatch(tmp_path)
    watch.watch("correct horse", "password")
    watch.open_log("in/process").write(b"correct horse")

    assert [leak.split(":")[0] for leak in watch.leaks()] == ["0001-in_process.log"]
    watch.close()
