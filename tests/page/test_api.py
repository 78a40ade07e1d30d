"""What programs ask the page: every endpoint as a function on a tiny CLIP, and over the network as
gradio_client, an assistant and a crowd ask.
"""

import asyncio
import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import documents
import gradio as gr
import psutil
import pytest
from by_hand import close_to, cut, independent
from gradio.utils import get_function_description
from gradio_client import Client
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from PIL import Image
from served import served  # recipes/served.py
from tiny import tiny_clip, tiny_task
from tiny_page import ONE, TINY, TWO, BrokenLab, TinyLab

from copra_lab.merging import interpolate
from copra_lab.models import load_clip
from copra_lab.page.api.endpoints import ENDPOINTS, Api
from copra_lab.page.state.lab import Lab
from copra_lab.pruning import layers_of
from copra_lab.tasks import load_task

ROOT = Path(__file__).parents[2]
API = Api(TinyLab())


def picture(side: int = 40) -> str:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (220, 30, 30)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_blend_is_that_of_an_independent_forward_pass():
    answer = API.blend("colours", "0/one", "0/two", 0.3)
    assert answer["correct"] == independent(tiny_clip(), tiny_task(), (ONE, 0.7), (TWO, 0.3))
    assert answer["n"] == len(TINY)
    a = TINY.accuracy(interpolate(ONE, TWO, 0.3))
    assert (answer["accuracy"], tuple(answer["interval"]), answer["weight"]) == (
        a.value,
        a.interval,
        0.3,
    )
    assert (
        API.blend("colours", "base", "0/two", 0)["correct"]
        == API.base("colours")["correct"]
        == TINY.accuracy().correct
    )


def test_a_pruned_adapter_is_that_of_an_independent_forward_pass():
    first, *_, last = layers_of(ONE)
    answer = API.prune("colours", "0/one", [last, first], ["q", "v"], 40)
    assert answer["correct"] == independent(
        tiny_clip(), tiny_task(), (cut(ONE, [first, last], ["q", "v"], 40), 1)
    )
    assert (answer["layers"], answer["kinds"], answer["sparsity"]) == (
        [first, last],
        ["q", "v"],
        40,
    )
    assert 0 < answer["left"] < 1
    whole = API.prune("colours", "0/one")
    assert whole["correct"] == TINY.accuracy(ONE).correct
    assert whole["layers"] == list(layers_of(ONE))
    assert whole["left"] == 1


def test_adapters_are_listed_with_what_can_be_pruned():
    assert [t["name"] for t in API.tasks()] == ["colours"]
    one, two = API.adapters("colours")
    assert (one["key"], two["key"], one["layers"]) == ("0/one", "0/two", list(layers_of(ONE)))
    assert {
        "q",
        "k",
        "v",
    } <= set(one["kinds"])
    assert API.prompts("colours") == []


def test_an_adapter_that_cannot_be_read_is_said_in_its_entry_and_to_who_asks_for_it():
    good, broken = (
        next(e for e in Api(BrokenLab()).adapters("colours") if bool(e["trouble"]) is bad)
        for bad in (False, True)
    )
    assert good["layers"]
    assert not broken["layers"]
    assert "copy it again" in broken["trouble"]
    with pytest.raises(gr.Error, match="copy it again"):
        Api(BrokenLab()).blend("colours", good["key"], broken["key"], 0.5)


def test_a_picture_is_classified_by_every_model():
    plain, bare = (
        API.classify("colours", head + picture()) for head in ("data:image/png;base64,", "")
    )
    assert plain == bare
    assert [m["model"] for m in plain] == ["No adapter", "One", "Two"]
    for m in plain:
        assert sorted(m["names"]) == sorted(tiny_task().classes)
        assert sum(m["probabilities"]) == pytest.approx(1, abs=1e-4)
        assert m["probabilities"] == sorted(m["probabilities"], reverse=True)


SVG = base64.b64encode(
    b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
).decode()
BAD = [
    ("blend", ("elsewhere", "0/one", "0/two", 0.5), "choose one of the tasks"),
    (
        "blend",
        ("colours", "../../etc", "0/two", 0.5),
        "no adapter '../../etc'; it has 0/one, 0/two, base",
    ),
    ("blend", ("colours", ["0/one"], "0/two", 0.5), "no adapter"),
    ("blend", ("colours", "0/one", "0/two", float("nan")), "λ must be a number"),
    ("blend", ("colours", "0/one", "0/two", None), "λ must be a number"),
    ("base", ({"x": 1},), "choose one of the tasks"),
    ("prune", ("colours", "base"), "no adapter"),
    ("prune", ("colours", "0/one", [99]), "no layer 99"),
    ("prune", ("colours", "0/one", "all"), "layer must be a list"),
    ("prune", ("colours", "0/one", None, ["w"]), "no kind 'w'"),
    ("prune", ("colours", "0/one", None, None, "much"), "the sparsity must be a number"),
    ("shapley", ("colours", "0/one", "long"), "seconds must be a number"),
    ("shapley", ("colours", None), "no adapter"),
    ("prompt", ("colours", "coop"), "no soft prompt 'coop'"),
    ("classify", ("colours", "/etc/passwd"), "base64-encoded"),
    ("classify", ("colours", {"path": "/etc/passwd"}), "base64-encoded"),
    ("classify", ("colours", SVG), "base64-encoded"),
    ("classify", ("colours", "A" * 14_000_000), "at most 10 MB"),
    ("adapters", (None,), "choose one of the tasks"),
]


@pytest.mark.parametrize(("name", "given", "said"), BAD)
def test_what_is_wrong_is_answered_with_a_sentence(name, given, said):
    with pytest.raises(gr.Error, match=re.escape(said)):
        getattr(API, name)(*given)


def test_every_endpoint_says_what_it_is_and_what_each_value_means():
    for name in ENDPOINTS:
        description, values, _ = get_function_description(getattr(API, name))
        assert description.endswith(".") and all(values.values()), name


def test_the_guides_and_the_space_call_endpoints_that_exist():
    space = (ROOT / "recipes" / "space_template.md").read_text(encoding="utf-8")
    for text in (documents.TEXT, space):
        called = set(re.findall(r'api_name="/(\w+)"', text))
        assert called
        assert called <= set(ENDPOINTS)
    said = re.search(r"view_api\(\) +# (.*)", documents.TEXT).group(1)
    assert tuple(said.split(", ")) == ENDPOINTS


# --- over the network --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(url):
    client = Client(url, verbose=False, analytics_enabled=False)
    yield client
    client.close()


@pytest.mark.slow
def test_gradio_client_gets_typed_endpoints_and_their_numbers(client, fresh):
    _, task, adapter = fresh
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert {name.removeprefix("/") for name in named} == set(
        ENDPOINTS
    )  # the views' own handlers are nobody's business
    assert {p["parameter_name"]: p["type"]["type"] for p in named["/blend"]["parameters"]} == {
        "task": "string", "a": "string", "b": "string", "weight": "number",
    }  # fmt: skip
    assert set(named["/blend"]["returns"][0]["type"]["properties"]) == {
        "accuracy",
        "correct",
        "n",
        "interval",
        "weight",
    }
    lab = Lab()
    key = lab.one(task.name, None)
    mine = next(
        a["key"]
        for a in client.predict(task.name, api_name="/adapters")
        if a["key"].endswith("lora-fresh")
    )
    answer = client.predict(task.name, key, mine, 0.62, api_name="/blend")
    expected = independent(load_clip(), task, (lab.adapter(task.name, key), 0.38), (adapter, 0.62))
    assert answer["correct"] == close_to(expected)
    assert answer["n"] == len(task.test)
    pruned = client.predict(task.name, key, [0, 2], sparsity=50, api_name="/prune")
    assert pruned["correct"] == close_to(
        independent(load_clip(), task, (cut(lab.adapter(task.name, key), [0, 2], None, 50), 1))
    )


@pytest.mark.slow
def test_prompts_pictures_and_values_come_over_the_network_too(client):
    task = next(
        t["name"]
        for t in client.predict(api_name="/tasks")
        if client.predict(t["name"], api_name="/prompts")
    )
    prompt = client.predict(task, api_name="/prompts")[0]
    learned, none = (
        client.predict(task, prompt["key"], [p] * prompt["vectors"], api_name="/prompt")
        for p in (100, 0)
    )
    lab = Lab(precision="float32")
    assert learned["correct"] == close_to(
        lab.bench(task).accuracy(prompt=lab.prompt(task, prompt["key"])).correct
    )
    assert learned != none
    opinions = client.predict(task, picture(), api_name="/classify")
    assert [m["model"] for m in opinions][1:] == [
        a["label"] for a in client.predict(task, api_name="/adapters")
    ]
    key = lab.one(task, None)
    values = client.predict(task, key, 0, api_name="/shapley")
    assert len(values["values"]) == 12
    assert sum(values["values"]) == pytest.approx(values["all"] - values["none"], abs=1e-9)
    assert client.predict(task, key, 0, api_name="/shapley")["coalitions"] >= values["coalitions"]


@pytest.mark.slow
def test_the_guide_asks_as_it_says(url, capsys):
    names: dict = {}
    exec(documents.CODE["programs"].replace("http://127.0.0.1:7860", url), names)
    names["page"].close()
    shown = capsys.readouterr().out
    assert all(f"/{name}" in shown for name in ENDPOINTS)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("/blend", ["digits", "0/nobody", "base", 0.5], "no adapter '0/nobody'"),
        ("/prompt", ["digits", "0", [1]], "no soft prompt '0'"),
    ],
)
def test_a_program_reads_what_it_did_wrong(client, name, given, said):
    with pytest.raises(AppError, match=said):
        client.predict(*given, api_name=name)


@pytest.mark.slow
def test_the_load_run_speaks_as_the_browser_does_and_finds_every_number_right(url, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import load

    lab = Lab()
    states = load.pairs(lab)[:2]
    visitors, *_ = asyncio.run(load.crowd(url, psutil.Process(), states, 1))
    truth = load.Truth(lab, "float32")
    for visitor, state in zip(visitors, states, strict=True):
        assert visitor.firsts
        assert visitor.wholes
        assert not visitor.lost
        assert all(s.place.line == state.line and truth.fits(s) for s in visitor.shown)
        assert visitor.shown[-1].n == len(load_task(state.task).test)
    wrong = replace(visitors[0].shown[-1], correct=visitors[0].shown[-1].correct - 9)
    assert not truth.fits(wrong)


@pytest.mark.slow
def test_without_its_package_the_mcp_server_says_what_to_install():
    code = "import sys, importlib.util as u; found = u.find_spec; u.find_spec = lambda n, *a: None if n == 'mcp' else found(n, *a)"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport app\nsys.argv[1:] = ['--mcp', '--no-browser']\napp.main()"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert 'pip install "copra-lab[mcp]"' in ran.stderr


@pytest.mark.slow
def test_an_assistant_finds_the_endpoints_as_tools_and_uses_them():
    async def ask(address: str):
        async with (
            streamable_http_client(address) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            blended = {"task": "digits", "a": "0/lora-seed-0", "b": "0/lora-seed-1", "weight": 0.5}
            return (
                (await session.list_tools()).tools,
                await session.call_tool("blend", blended),
                await session.call_tool("blend", {**blended, "a": "nobody"}),
            )

    with served("--precision", "float32", "--mcp") as (address, _):
        tools, answer, refused = asyncio.run(ask(f"{address}/gradio_api/mcp/"))
    blend = next(t for t in tools if t.name == "blend")
    assert {t.name for t in tools} == set(ENDPOINTS)
    assert blend.inputSchema["properties"]["weight"]["type"] == "number"
    assert "from -0.5 to 1.5" in blend.inputSchema["properties"]["weight"]["description"]
    lab = Lab(precision="float32")
    a, b = (lab.adapter("digits", f"0/lora-seed-{i}") for i in (0, 1))
    correct = int(re.search(r"'correct': (\d+)", answer.content[0].text).group(1))
    assert not answer.isError
    assert correct == close_to(lab.bench("digits").path(a, b, [0.5]).accuracies[0].correct)
    assert refused.isError
    assert "no adapter 'nobody'" in refused.content[0].text
