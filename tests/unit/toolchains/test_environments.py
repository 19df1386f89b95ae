"""What child processes see of this process's environment."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.toolchains.runner import _PASSED, _PASSED_WITH_NETWORK, step_environment
from enginekeeper.toolchains.uv import uv_environment

PYTHON = Path("/toolchain/bin/python")
_NAMES = st.sampled_from(
    ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
     "GITHUB_TOKEN", "PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD", "VIRTUAL_ENV", "PIP_INDEX_URL"]
)  # fmt: skip

_LISTED = {*_PASSED, *_PASSED_WITH_NETWORK}
_OTHERS = st.text(min_size=1).filter(lambda name: name not in _LISTED)


@given(st.dictionaries(_NAMES | _OTHERS, st.text()), st.booleans())
def test_only_what_is_on_the_list_reaches_a_step(env: dict[str, str], network: bool) -> None:  # noqa: FBT001
    bare = step_environment({}, PYTHON, network=network)

    assert step_environment(env, PYTHON, network=network) == bare


def test_a_step_is_offline_unless_it_may_use_the_network() -> None:
    env = {"HTTPS_PROXY": "http://user:password@proxy", "SSL_CERT_FILE": "/ca.pem"}

    offline = step_environment(env, PYTHON)
    online = step_environment(env, PYTHON, network=True)

    assert offline["HF_HUB_OFFLINE"] == "1"
    assert "HTTPS_PROXY" not in offline
    assert "HF_HUB_OFFLINE" not in online
    assert online["SSL_CERT_FILE"] == "/ca.pem"


def test_a_toolchains_own_programs_come_first() -> None:
    assert step_environment({"PATH": "/usr/bin"}, PYTHON)["PATH"] == "/toolchain/bin:/usr/bin"


def test_uv_hears_what_pip_was_told_but_its_own_variables_win() -> None:
    env = {"PIP_INDEX_URL": "https://a", "PIP_CERT": "/ca", "UV_FIND_LINKS": "/x", "AWS_X": "s"}

    assert uv_environment(env) == {"UV_DEFAULT_INDEX": "https://a", "SSL_CERT_FILE": "/ca"}
    assert uv_environment({**env, "UV_INDEX_URL": "https://b"})["UV_DEFAULT_INDEX"] == "https://b"


def test_no_thread_of_a_step_spins_while_it_waits() -> None:
    assert step_environment({}, PYTHON)["OMP_WAIT_POLICY"] == "PASSIVE"
