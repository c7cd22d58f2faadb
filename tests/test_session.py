"""One question to both workers: whoever fails is named, and the others answer."""

from dataclasses import replace

import numpy as np
import pytest
from planted import specs
from test_golden import emulated

from parity import stimulus
from parity.contract.plan import Plan
from parity.contract.problem import Problem
from parity.process import Worker
from parity.session import Session

PROBLEM = Problem(m=4, in_features=8, hidden_features=8, out_features=4, activation="relu")
ARRAYS = stimulus.generate(PROBLEM, "normal", 1)


def test_a_worker_that_dies_is_an_error_of_its_runners_and_is_there_again():
    with Session(emulated("crash")) as session:
        found = session.ask(PROBLEM, ARRAYS, Plan())
        again = session.ask(PROBLEM, ARRAYS, Plan(), ["eager"])
    assert set(found.stages) == {"jaxfused", "xla"}
    assert set(found.errors) == {"torchfused", "eager"}
    assert "was ended by SIGABRT" in found.errors["torchfused"]
    assert set(again.stages) == {"eager"}


def test_a_worker_that_hangs_or_does_not_start_is_named():
    with Session(emulated("hang"), 2.0) as session:
        assert "did not answer within 2 s" in session.ask(PROBLEM, ARRAYS, Plan()).errors["torchfused"]
    with Session(emulated("will_not_start")) as session:
        assert "no such device" in session.ask(PROBLEM, ARRAYS, Plan()).errors["torchfused"]


def test_only_what_is_asked_answers_and_as_often():
    with Session(specs("atomics")) as session:
        found = session.ask(PROBLEM, ARRAYS, Plan(), ["torchfused", "xla"], repeats=3)
    assert {runner: len(hashes["s"]) for runner, hashes in found.hashes.items()} == {"torchfused": 3, "xla": 3}
    assert len(set(found.hashes["xla"]["s"])) == 1


def test_an_array_is_written_once_and_another_of_its_name_anew():
    first = stimulus.generate(PROBLEM, "normal", 1)
    other = first | {"x": stimulus.generate(PROBLEM, "normal", 2)["x"]}
    with Session(emulated("")) as session:
        one = session.ask(PROBLEM, first, Plan(), ["eager"]).stages["eager"]["y"]
        (session.folder / "w_up.bin").write_bytes(b"")  # who wrote it again would be right
        failed = session.ask(PROBLEM, first, Plan(), ["eager"])
        with pytest.raises(ValueError, match="read-only"):
            first["w_up"][0, 0] = 1
        first["w_up"] = first["w_up"].copy()
        again = session.ask(PROBLEM, first, Plan(), ["eager"]).stages["eager"]["y"]
        two = session.ask(PROBLEM, other | {"w_up": first["w_up"]}, Plan(), ["eager"]).stages["eager"]["y"]
    assert "sha256" in failed.errors["eager"]
    assert (one == again).all()
    assert (one != two).any()


def test_gradients_are_asked_for_by_dy():
    arrays = ARRAYS | {"dy": stimulus.upstream(PROBLEM, "normal", 1)}
    with Session(emulated("")) as session:
        found = session.ask(PROBLEM, arrays, Plan(), ["eager"], save="recompute").stages["eager"]
    assert np.isfinite(found["d_x"]).all()


def test_lent_workers_stay():
    workers = [Worker(spec) for spec in emulated("")]
    try:
        with Session((), lent=workers) as session:
            session.ask(PROBLEM, ARRAYS, Plan())
            session.ask(replace(PROBLEM, activation="identity"), ARRAYS, Plan())
        assert not session.folder.exists()
        assert all(worker._process and worker._process.poll() is None for worker in workers)
    finally:
        for worker in workers:
            worker.close()
