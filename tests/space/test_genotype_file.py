"""What commands add to a run's ``genotype.json``, and what becomes of it when the search goes on."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from lightning import Trainer

from advnas_lightning import Genotype
from advnas_lightning.callbacks.summary import GenotypeFile
from advnas_lightning.runs import write_json
from advnas_lightning.space.genotype_file import add_genotype, write_found
from advnas_lightning.tasks.toy import ToyNetwork
from tests.support.findings import search_that_found

A, B, C = (Genotype({"a": name}) for name in ("x", "y", "z"))


def test_an_added_genotype_is_read_by_its_kind_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    assert write_found(path, "process_best", A, B) == []
    add_genotype(path, "ranked", C)
    add_genotype(tmp_path, "refined", A)
    add_genotype(path, "ranked", B)  # a later one takes its place
    assert json.loads(path.read_text()) == {
        "selected": "process_best", "argmax": {"a": "x"}, "process_best": {"a": "y"}, "ranked": {"a": "y"},
        "refined": {"a": "x"},
    }  # fmt: skip
    assert [Genotype.load(path, select=kind) for kind in (None, "ranked", "refined")] == [B, B, A]
    assert [file.name for file in tmp_path.iterdir()] == ["genotype.json"]


def test_a_kind_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    write_found(tmp_path / "genotype.json", "argmax", A, None)
    with pytest.raises(ValueError, match="has no ranked genotype: choose argmax with select="):
        Genotype.load(tmp_path, select="ranked")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": "x"}'])
def test_nothing_is_added_to_a_file_that_no_search_has_left(tmp_path: Path, content: str) -> None:
    (tmp_path / "genotype.json").write_text(content)
    with pytest.raises(ValueError, match="cannot get a ranked genotype"):
        add_genotype(tmp_path, "ranked", A)
    assert (tmp_path / "genotype.json").read_text() == content
    with pytest.raises(ValueError, match="kind='best'"):
        add_genotype(tmp_path, "best", A)


def test_two_commands_that_end_at_once_both_add_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_found(tmp_path / "genotype.json", "argmax", A, None)
    second = Thread(target=add_genotype, args=(tmp_path, "refined", C))

    def write_slowly(path: Path, content: Any) -> None:
        if second.ident is None:  # the first one has read the file, and has not written it yet
            second.start()
            second.join(timeout=0.1)
        write_json(path, content)

    monkeypatch.setattr("advnas_lightning.space.genotype_file.write_json", write_slowly)
    add_genotype(tmp_path, "ranked", B)
    second.join()
    assert [Genotype.load(tmp_path, select=kind) for kind in ("ranked", "refined")] == [B, C]


def test_a_search_that_goes_on_takes_out_what_came_from_before(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    search = search_that_found(ToyNetwork(nodes=1, candidates=2), {"input->1": "filter0"})
    writes, trainer = GenotypeFile(path), Trainer(logger=False, enable_checkpointing=False)
    writes.on_train_epoch_end(trainer, search)
    add_genotype(path, "refined", Genotype({"input->1": "filter1"}))
    with pytest.warns(UserWarning, match="refined came from this search before it went on"):
        writes.on_train_epoch_end(trainer, search)
    assert set(json.loads(path.read_text())) == {"selected", "argmax", "process_best"}
