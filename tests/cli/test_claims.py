"""The short tables of papers.md: what each claim is compared by, its verdict, and the state of a paper."""

from dataclasses import replace
from pathlib import Path

import pytest

from hetlib.cli import claims, report
from hetlib.lab import records
from hetlib.lab.tables import published
from tests.lab.test_records import RECORD

PROJECT = Path(__file__).parents[2]
ARMS = ("chain", "none", "shuffle", "interval")


def record(chain=(30.0, 31.0, 32.0), **changes):
    """A record at the paper's protocol in which all other arms have 20, 21, 22, with changes."""
    values = {arm: list(chain) if arm == "chain" else [20.0, 21.0, 22.5] for arm in ARMS}
    metrics = {
        f"{target}/{arm}/final": {"unit": "%", "values": found}
        for target in ("plainnet5", "resnet8")
        for arm, found in values.items()
    }
    whole = {"notebook": "01_hmt", "preset": "paper", "seeds": [0, 1, 2], "metrics": metrics, "parameters": {}}
    whole |= {"facts": {}, "data": RECORD.data | {"name": "sub-cifar100"}}
    return replace(RECORD, **(whole | changes))


def state(*found):
    return claims.state(claims.answers("01_hmt", found))


def test_every_paper_has_one_to_six_claims_whose_metrics_its_notebook_knows():
    assert claims.claims().keys() == published().keys()
    for name, found in claims.claims().items():
        assert 1 <= len(found) <= 6
        assert all(claim.keys() - {"data"} == {"claim", "ours", "than"} for claim in found)
        assert len(claims.answers(name, [])) == len(found)


def test_a_paper_is_confirmed_only_by_its_own_protocol():
    assert state() == "NOT RUN"
    assert state(record()) == "CONFIRMED"
    assert state(record(chain=(20.0, 21.0, 22.5))) == "NOT SHOWN"
    assert state(record(preset="reduced")) == "PARTLY"
    assert state(record(data=RECORD.data)) == "NOT RUN", "on rendered shapes"
    assert state(record(facts={"reductions": ["half the width"]})) == "PARTLY"
    assert state(record(parameters={"WIDTH": 0.5})) == "PARTLY"
    assert state(record(parameters={"WIDTH": 0.0, "SEEDS": 3})) == "CONFIRMED"
    metrics = {name: found for name, found in record().metrics.items() if name.startswith("plainnet5")}
    assert state(record(metrics=metrics)) == "PARTLY"


def test_the_paper_s_own_protocol_counts_before_a_newer_reduced_run():
    newer = record(chain=(0.0, 0.0, 0.0), preset="classroom", date="2026-03-01T00:00:00+00:00")
    first = claims.answers("01_hmt", [record(), newer])[0]
    assert (first.ours, first.setting, first.verdict) == ("9.83 ± 0.72 points, n = 3", "sub-cifar100, paper", "better")
    assert claims.answers("01_hmt", [newer])[0].verdict == "worse"


def test_published_differences_are_those_of_the_published_numbers():
    found = {answer.claim: answer.published for answer in claims.answers("05_tlv", [])}
    assert found["the whole method better than He initialisation, CIFAR-10"] == "+0.89"
    assert {answer.published for answer in claims.answers("01_hmt", [])} == {"not known"}


def test_blocks_are_written_and_what_records_hold_is_escaped():
    text = "a\n<!-- claims: 01_hmt -->\nold\n<!-- end of claims -->\nb\n"
    hostile = record(command="hetlib run <!-- end of claims --> | <script>")
    written = claims.written(text, [hostile])
    assert "old" not in written
    assert "<script>" not in written
    assert written.startswith("a\n<!-- claims: 01_hmt -->\n| claim |")
    assert claims.written(written, [hostile]) == written
    assert "[HMT](notebooks/01_hmt.ipynb) | CONFIRMED" in claims.written(text.replace("01_hmt", "all"), [record()])
    with pytest.raises(ValueError, match="01_hmm"):
        claims.written(text.replace("01_hmt", "01_hmm"), [])
    with pytest.raises(ValueError, match="2 blocks of claims begin and 1 end"):
        claims.written("<!-- claims: all -->\nprose that matters\n" + text, [])


def test_the_report_opens_with_every_paper_s_state_and_draws_what_was_run(tmp_path):
    records.write(record(), tmp_path / "results")
    page = report.write_page(tmp_path / "runs", tmp_path / "results").read_text(encoding="utf-8")
    assert page.index("CONFIRMED") < page.index('<h2 id="01_hmt">HMT: CONFIRMED</h2>')
    assert "Knowledge amalgamation: NOT RUN" in page
    assert page.count('d="M146.5 8H152.2M149.3 4V12"') == 7, "six claims, the main one twice"


def test_the_project_s_papers_are_in_step_with_its_records(tmp_path):
    copy = tmp_path / "papers.md"
    copy.write_text((PROJECT / "papers.md").read_text(encoding="utf-8"), encoding="utf-8")
    assert not report.update_tables(copy, PROJECT / "results")
    kept = records.read_all(PROJECT / "results")
    assert [claims.state(claims.answers(name, kept)) for name in claims.claims()].count("CONFIRMED") >= 1
