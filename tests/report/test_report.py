"""The page as a whole: self-contained, without scripts, complete, and good about what is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from html_page import Page
from synthetic import draw_pictures, evaluation, write_comparison, write_evaluation, write_records, write_weights

from drrho_clip.errors import ConfigError, DataError
from drrho_clip.report import ReportConfig, write_report
from drrho_clip.storage import Store, layout

RUNS = "openclip-small,fastclip-small,drrho-small"
HOSTILE = {
    "script": "<script>alert(1)</script><SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "attribute": "\"><img src=x onerror=alert(1)> ' onmouseover=alert(1) x='",
    "style": "</style><style>@import url(https://evil.example)</style><svg/onload=alert(1)>",
    "template": "{{ 7 * 7 }}{% include 'x' %}",
    "comment": "<!-- --><![CDATA[ ]]></main></body></html>",
    "bidi": "invoice \u202egnp.exe\u2066 end",
    "long": "long " + "x" * 10_000,
    "url": "javascript:alert(1) &lt;script&gt; &#60;script&#62;",
}


def report(store: Store, **settings: object) -> Page:
    config = ReportConfig(**{"runs": RUNS, "comparison": "methods", **settings})  # type: ignore[arg-type]
    write_report(config, store)
    return Page(store.read(config.key).decode())


def test_comparison_goes_to_its_place_in_either_kind_of_store(store: Store, tmp_path: Path):
    draw_pictures(tmp_path / "pictures", 20)
    write_comparison(store, tmp_path / "pictures", steps=20)
    uri = write_report(ReportConfig(runs=RUNS, comparison="methods"), store)
    assert uri == store.uri_of("comparisons/methods/report.html")
    assert store.read("comparisons/methods/report.html").startswith(b"<!DOCTYPE html>")


def test_report_of_one_run_goes_into_its_folder(compared: Store):
    assert write_report(ReportConfig(runs="drrho-small"), compared) == compared.uri_of("runs/drrho-small/report.html")


def test_page_holds_everything_it_should(compared: Store):
    page = report(compared, title="Steering on shapes")
    assert page.badly_nested == []
    assert page.stack == []
    for words in (
        "Steering on shapes",
        "OpenCLIP", "FastCLIP", "DRRho-CLIP", "reference", "image→text", "zero-shot", "Var(l−l_ref)", "23.0",
        "Temperature", "Throughput", "Largest weights",
        "Smallest weights: 12 of 12 with an exchanged caption", "Settings that differ", "caption_noise",
        "heldout", "torch 2.6.0", "runs/drrho-small/metrics.jsonl", "runs/drrho-small/weights.parquet", "datasets/shapes",
        "Reference clean", "run:teacher",
        "Written 20",
    ):  # fmt: skip
        assert words in page.text, words
    assert len(page.all("figure", "plot")) == 7
    assert len(page.all("img")) == 24


def test_page_is_self_contained_and_forbids_scripts(compared: Store):
    page = report(compared)
    policies = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    assert not {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "a",
        "image",
        "use",
    }
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"href", "xlink:href", "srcset", "style", "action"}
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    html = compared.read(layout.comparison("methods")).decode()
    assert not re.search(r"url\(|@import|https?://", html)


def test_page_is_accessible(compared: Store):
    page = report(compared)
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    drawings = page.all("svg")
    assert all(svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"]) for svg in drawings)
    assert len([tag for tag, _ in page.elements if tag == "h1"]) == 1


@pytest.fixture
def hostile(folder_store: Store, tmp_path: Path) -> Store:
    """Captions that try everything, each under several pictures."""
    pictures = tmp_path / "pictures"
    draw_pictures(pictures, 40)
    for number, path in enumerate(sorted(pictures.glob("*.txt"))):
        path.write_text(list(HOSTILE.values())[number % len(HOSTILE)], encoding="utf-8")
    write_comparison(folder_store, pictures)
    return folder_store


def test_captions_are_text_never_markup(hostile: Store):
    page = report(hostile, gallery=20)
    tame = {tag for tag, _ in Page(hostile.read(layout.comparison("methods")).decode()).elements}
    assert page.badly_nested == []
    assert page.stack == []
    assert not tame & {"script", "iframe", "object", "link"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert len(page.all("style")) == 1
    assert len(page.all("img")) == len(page.all("p", "caption")) > 20
    for words in (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{ 7 * 7 }}",
        "&lt;script&gt;",
    ):
        assert words in page.text, words
    html = hostile.read(layout.comparison("methods")).decode()
    assert not set(html) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068")
    assert "x" * 300 not in html
    assert "10,005 characters" in page.text


def test_names_and_settings_are_text_too(compared: Store):
    summary = json.loads(compared.read(layout.run_summary("drrho-small")))
    markup = "<script>alert(1)</script>"
    compared.write(layout.run_summary("drrho-small"), json.dumps({**summary, "method": markup, "architecture": markup}).encode())
    page = report(compared, title=markup)
    assert not page.all("script")
    assert page.all("title")
    assert page.text.count(markup) > 3


def test_half_a_surrogate_pair_in_a_name_is_no_failure(compared: Store):
    summary = json.loads(compared.read(layout.run_summary("drrho-small")))
    compared.write(layout.run_summary("drrho-small"), json.dumps({**summary, "method": "half \ud83d"}).encode())
    assert "half \\ud83d" in report(compared).text


def test_size_is_bounded_with_many_records_and_samples(folder_store: Store, tmp_path: Path):
    draw_pictures(tmp_path / "pictures", 150)
    write_comparison(folder_store, tmp_path / "pictures", steps=20_000, every=2)
    assert len(folder_store.read(layout.run_metrics("drrho-small")).splitlines()) == 10_000
    report(folder_store, gallery=60)
    assert len(folder_store.read(layout.comparison("methods"))) < 1_000_000


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        (layout.run_summary("drrho-small"), "Not finished, shown as far as it has come: drrho-small."),
        (
            layout.evaluation("drrho-small", "shapes", "heldout"),
            "Not evaluated on split 'heldout' of 'shapes' (`drrho evaluate` does it): drrho-small.",
        ),
        (layout.reference_evaluation("shapes", "clean", "heldout"), "does it): clean."),
        (layout.run_weights("drrho-small"), "Run 'drrho-small' has left no weights"),
        (layout.run_metrics("drrho-small"), "No records of training (metrics.jsonl): drrho-small."),
        (layout.dataset_manifest("shapes", 1), "data of run 'drrho-small' cannot be shown"),
        (layout.shard("shapes", 0), "is gone"),
        (layout.run_config("drrho-small"), "No settings (config.yaml): drrho-small."),
    ],
)
def test_what_is_missing_is_said(compared: Store, gone: str, sentence: str):
    compared.delete(gone)
    assert sentence in report(compared).text


def test_samples_of_a_dataset_that_was_made_anew_are_not_shown(compared: Store):
    summary = json.loads(compared.read(layout.run_summary("drrho-small")))
    compared.write(layout.run_summary("drrho-small"), json.dumps({**summary, "dataset_id": "0" * 64}).encode())
    page = report(compared, runs="drrho-small", comparison="")
    assert "'shapes' was made anew after the run" in page.text
    assert not page.all("img")


def test_a_run_without_anything_but_its_settings(compared: Store):
    for info in list(compared.list("runs/drrho-small/")):
        if info.key != layout.run_config("drrho-small"):
            compared.delete(info.key)
    page = report(compared, runs="drrho-small", comparison="")
    assert "There are no records of training yet" in page.text
    assert "not finished" in page.text
    assert not page.all("img")


def test_models_evaluated_on_different_data_are_not_compared_silently(compared: Store):
    key = layout.evaluation("drrho-small", "shapes", "heldout")
    write_evaluation(compared, key, evaluation("drrho-small", (0.1, 0.2, 0.3, 0.4, 0.5), shards_id="0" * 64))
    assert "evaluated on different versions" in report(compared).text


def test_why_there_is_no_accuracy_is_said(compared: Store):
    key = layout.evaluation("drrho-small", "shapes", "heldout")
    absent = evaluation("drrho-small", (0.1, 0.2, 0.3, 0.4, 0.5), zero_shot=None, zero_shot_absent="the dataset has no classes")
    write_evaluation(compared, key, absent)
    assert "No zero-shot accuracy of 'drrho-small': the dataset has no classes." in report(compared).text


def test_a_run_without_reference(compared: Store):
    for key in (layout.run_config("openclip-small"), layout.run_summary("openclip-small")):
        text = compared.read(key).decode()
        compared.write(
            key, text.replace("reference: clean", "reference: ''").replace('"reference": "clean"', '"reference": ""').encode()
        )
    page = report(compared, runs="openclip-small", comparison="")
    assert "Var(l − l_ref) is not known: the run trained without reference features." in page.text
    assert "Largest weights" not in page.text


def test_records_cut_short_are_counted(compared: Store):
    write_records(compared, "drrho-small", [{"step": 1, "loss": 2.0}], tail='{"step": 2, "lo')
    assert "1 lines in the records of run 'drrho-small' cannot be read" in report(compared).text


def test_report_is_written_again_and_shows_the_new_state(compared: Store):
    report(compared, runs="drrho-small", comparison="", title="first")
    assert "second" in report(compared, runs="drrho-small", comparison="", title="second").text


def test_gallery_can_be_left_out(compared: Store):
    page = report(compared, gallery=0)
    assert not page.all("img")
    assert "weights" not in page.text.split("What was run")[0]


def test_only_steered_runs_have_a_gallery(compared: Store):
    assert report(compared).text.count("Largest weights") == 1


def test_equal_weights_make_no_gallery(compared: Store):
    from drrho_clip.data.manifest import load_manifest

    write_weights(compared, "drrho-small", load_manifest(compared, "shapes"), seed=None)
    page = report(compared)
    assert "weighs all of its samples alike" in page.text
    assert "Largest weights" not in page.text


def test_unknown_run_leaves_nothing_behind(compared: Store):
    with pytest.raises(DataError, match="Did you mean drrho-small"):
        write_report(ReportConfig(runs="drrho-smal", comparison="methods"), compared)
    assert compared.head(layout.comparison("methods")) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runs": " , "}, "no run is named"),
        ({"runs": "a,b"}, "give the comparison a name"),
        ({"gallery": -1}, "gallery"),
        ({"galery": 3}, "Did you mean gallery"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        ReportConfig.parse(settings)


def test_run_names_are_taken_once_and_trimmed():
    assert ReportConfig(runs=" b, a ,b,", comparison="x").run_names == ("b", "a")


def test_weights_of_the_gallery_are_the_run_s(compared: Store):
    from drrho_clip.data.manifest import load_manifest

    expected = write_weights(compared, "drrho-small", load_manifest(compared, "shapes"), seed=9)
    page = report(compared, gallery=1)
    assert f"{max(expected.values()):.3f}" in page.text
