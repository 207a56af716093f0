"""Schemathesis asks the API all that its description allows and forbids; nothing may break, or differ from it."""

import json
import shutil
import subprocess
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspection_core.io.wire import IMAGE_TYPE, PREDICTION_TYPE, image_to_bytes
from inspection_core.serve.limits import Limits

FAST = Limits(rate=1e6, burst=10**6, max_bytes=1 << 20)


@pytest.mark.slow
def test_schemathesis_finds_nothing(serve, blocks_model, token, tmp_path):
    tool = shutil.which("schemathesis", path=sysconfig.get_path("scripts")) or shutil.which("schemathesis")
    if tool is None:
        pytest.skip("schemathesis is not installed; it comes with the extra [dev]")
    server = serve(blocks_model, limits=FAST)
    options = ["--max-examples", "12", "--phases", "coverage,fuzzing", "--seed", "1", "--no-color"]
    done = subprocess.run(
        [tool, "run", f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {token}", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout
    for _ in range(2000):  # given back after the last answer has gone
        if server.app.state.gate.places == server.app.state.gate.held == 0:
            break
        time.sleep(0.01)
    assert server.app.state.gate.places == server.app.state.gate.held == 0


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 500),
    st.binary(max_size=16),
    st.integers(0, 100),
    st.sampled_from([IMAGE_TYPE, "image/png", "image/jpeg", "image/tiff", "image/bmp", "image/webp"]),
    st.sampled_from(["*/*", PREDICTION_TYPE]),
)
def test_damaged_uploads_get_an_answer_of_one_line(fuzzed, at, change, cut, kind, accept):
    server, bodies = fuzzed
    body = bytearray(bodies[kind])
    body[at : at + len(change)] = change
    answer = server.ask("POST", "/v1/models/blocks/predict", bytes(body[cut:]), Content_Type=kind, Accept=accept)
    assert answer.status in (200, 422)
    if answer.status == 422:
        assert "\n" not in json.loads(answer.data)["error"]["message"]


@pytest.fixture
def fuzzed(serve, blocks_model, make_picture, tmp_path):
    """A server, and a good upload of each type."""
    import PIL.Image

    image = make_picture()
    bodies = {IMAGE_TYPE: image_to_bytes(image)}
    for kind in ("png", "jpeg", "tiff", "bmp", "webp"):
        path = tmp_path / f"a.{kind}"
        PIL.Image.fromarray(image.array[0]).save(path)
        bodies[f"image/{kind}"] = path.read_bytes()
    return serve(blocks_model, limits=FAST), bodies


VALUES = {
    "NaN": (np.nan, np.float32),
    "infinite": (np.inf, np.float32),
    "the largest": (np.finfo(np.float64).max, np.float64),
    "the largest integer": (np.iinfo(np.uint64).max, np.uint64),
    "half": (1.0, np.float16),
}


@pytest.mark.parametrize(("value", "kind"), VALUES.values(), ids=VALUES)
def test_odd_values_get_what_they_get_here(serve, blocks_model, make_picture, value, kind):
    plain = make_picture()
    array = np.full(plain.array.shape, value, kind)
    body = image_to_bytes(type(plain)(array, plain.geometry, plain.channels))
    server = serve(blocks_model)
    for accept in ("*/*", PREDICTION_TYPE):
        answer = server.ask("POST", "/v1/models/blocks/predict", body, Content_Type=IMAGE_TYPE, Accept=accept)
        assert answer.status in (200, 422), answer.data


def test_memory_stays_where_it_is(serve, blocks_model, make_picture):
    """Hundreds of requests, every other one refused, leave nothing behind."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    server, good = serve(blocks_model, limits=FAST), image_to_bytes(make_picture(0, (384, 384)))
    bad = good[:-1] + b"\0\0"

    def ask(count: int) -> int:
        for i in range(count):
            body = (good, bad)[i % 2]
            status = server.ask("POST", "/v1/models/blocks/predict", body, Content_Type=IMAGE_TYPE).status
            assert status == (200, 422)[i % 2]
        return int(Path("/proc/self/statm").read_text().split()[1])

    before = ask(60)
    assert ask(200) - before < 4096  # pages of 4 KiB: 16 MiB, where all uploads together would be 28
