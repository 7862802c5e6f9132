"""Form schemas and presets: what a form offers can be submitted as it is."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from app.forms.schema import LOCAL_ONLY, MODELS
from kdcore.figures import CURVES, RESULTS
from kdcore.presets import PRESETS, Preset, preset
from tests.app.conftest import Api


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_a_form_offers_nothing_that_only_the_command_line_may_use(api: Api, kind: str) -> None:
    response = api.get(f"/schema/{kind}")
    assert response.status_code == 200
    schema = response.json()
    assert not LOCAL_ONLY & set(schema["$defs"])
    for name in LOCAL_ONLY:
        assert f"/{name}" not in response.text
    jsonschema.Draft202012Validator.check_schema(schema)


def _unions(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for item in node for found in _unions(item)]
    if not isinstance(node, dict):
        return []
    own = [node] if "discriminator" in node else []
    return own + [found for item in node.values() for found in _unions(item)]


def test_every_choice_of_a_form_leads_somewhere(api: Api) -> None:
    schema = api.get("/schema/pipeline").json()
    unions = _unions(schema)
    assert len(unions) >= 4
    for union in unions:
        references = [option["$ref"] for option in union["oneOf"]]
        assert sorted(references) == sorted(union["discriminator"]["mapping"].values())
        assert all(ref.rpartition("/")[2] in schema["$defs"] for ref in references)


def test_hints_and_units_come_from_the_config(api: Api) -> None:
    properties = api.get("/schema/teacher").json()["properties"]
    assert "Probability of skipping each encoder layer" in properties["layer_drop"]["description"]
    assert properties["seq_len"]["unit"] == "tokens"


def _options(root: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each option that a form shows, and each choice of a union, by its path in the schema."""

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in node:
            return node
        return {**root["$defs"][node["$ref"].rpartition("/")[2]], **node}

    def walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, child in node.get("properties", {}).items():
            option, at = resolved(child), f"{path}.{name}"
            if "const" in option:
                continue
            real = [each for each in option.get("anyOf", ()) if each.get("type") != "null"]
            option = {**real[0], **option} if len(real) == 1 else option
            yield at, option
            yield from walk(option, at)
            for choice in map(resolved, option.get("oneOf", ())):
                yield f"{at}[{choice['title']}]", choice
                yield from walk(choice, f"{at}[{choice['title']}]")

    yield from walk(root, "")


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_every_option_has_a_title_a_hint_and_if_it_counts_things_a_unit(
    api: Api, kind: str
) -> None:
    options = dict(_options(api.get(f"/schema/{kind}").json()))
    assert len(options) > 10
    for path, option in options.items():
        title, name = option["title"], re.split(r"[.\[]", path)[-1]
        assert not re.search(
            r"_|[a-z][A-Z]",
            title.replace("HuggingFace", "").replace("WordPiece", "").replace("LayerDrop", ""),
        ), path  # no Python names
        assert title.count(" ") == 0 or title != name.replace("_", " ").title(), path  # "Seq Len"
        assert option["description"].strip().endswith((".", ")")), path
        if name.endswith(("_steps", "_tokens", "seq_len", "_s", "vocab_size", "batch_size")):
            assert option["unit"], path


def test_the_figures_of_results_are_described(api: Api) -> None:
    schema = api.get("/schema/results").json()
    assert [each["name"] for each in schema["results"]] == [each.name for each in RESULTS]
    assert [each["name"] for each in schema["curves"]] == [each.name for each in CURVES]
    eval_loss = next(each for each in schema["results"] if each["name"] == "eval_loss")
    assert eval_loss["label"] == "Eval loss"
    assert (eval_loss["unit"], eval_loss["digits"], eval_loss["better"]) == ("nats", 4, "lower")
    assert schema["key_results"][0] == "eval_loss"


@pytest.mark.parametrize("each", PRESETS, ids=[each.id for each in PRESETS])
def test_every_preset_fits_the_form_of_its_kind(api: Api, each: Preset) -> None:
    listed = {item["id"]: item for item in api.get("/presets").json()["items"]}[each.id]
    assert listed["kind"] == each.kind
    schema = api.get(f"/schema/{each.kind}").json()
    jsonschema.validate(listed["config"], schema)
    assert MODELS[each.kind].model_validate(listed["config"]) == each.config


@pytest.mark.parametrize("preset_id", ["demo", "published", "small-teacher"])
def test_a_preset_is_accepted_as_it_is(api: Api, preset_id: str) -> None:
    chosen = preset(preset_id)
    path = "/pipelines" if chosen.kind == "pipeline" else "/runs"
    response = api.post(path, {"config": chosen.config.model_dump(mode="json")})
    assert response.status_code == 201, response.text


def test_the_published_setting_is_the_published_one() -> None:
    config = preset("published").config.model_dump()
    model = config["teacher"]["model"]
    shape = (model["layers"], model["hidden_size"], model["heads"], model["intermediate_size"])
    assert shape == (4, 768, 4, 3072)
    assert config["teacher"]["seq_len"] == 512
    assert config["teacher"]["schedule"]["batch_size"] == 16
    assert config["teacher"]["optimiser"]["learning_rate"] == 5e-5
    assert config["teacher"]["corpus"]["config"] == "wikitext-2-raw-v1"
    assert config["teacher"]["tokenizer"]["name"] == "bert-base-uncased"
    assert config["prune"]["copy_head_transform"] is False


@pytest.mark.integration
def test_presets_load_without_torch() -> None:
    script = "import sys, json, kdcore.presets; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(done.stdout) is False
