"""TensorBoard's own reader finds what the board wrote."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.plugins.hparams import metadata as hparams

from nas.report.tensorboard import TrialBoard

REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Objective:
    name: str


ACCURACY_AND_FLOPS = [Objective("accuracy"), Objective("flops")]


def start(board: TrialBoard, trial: str = "placement-0007", **more) -> None:
    event = {
        "event": "start",
        "time": 1000.0,
        "stage": "placement",
        "trial": trial,
        "number": 7,
        "network": "1a2b",
    }
    event |= {"point": {"learning_rate": 0.01, "layer_1": True}, "network_name": "t1-v1 · product", "seed": 5}
    board.start({**event, "cost": {"parameters": 10, "flops": 2000}, **more})


def report(board: TrialBoard, epoch: int, trial: str = "placement-0007", **more) -> None:
    event = {"event": "report", "time": 1000.0 + epoch, "trial": trial, "epoch": epoch}
    board.report({**event, "metrics": {"accuracy": epoch / 10, "loss": None}, **more})


def end(board: TrialBoard, trial: str = "placement-0007", **more) -> None:
    event = {"event": "end", "time": 1009.0, "trial": trial, "state": "done", "epochs": 2}
    board.end({**event, "metrics": {"accuracy": 0.2}, **more})


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in read(folder).Scalars(tag)]


def declared(folder: Path):
    content = read(folder).SummaryMetadata(hparams.EXPERIMENT_TAG).plugin_data.content
    return hparams.parse_experiment_plugin_data(content)


def test_scalars_images_text_and_result_of_a_trial(tmp_path):
    with TrialBoard(tmp_path, objectives=ACCURACY_AND_FLOPS) as board:
        start(board)
        for epoch in (1, 2):
            alignment = {"linear_cka": [[0.1, None], [0.3, 0.4]]}
            metrics = {"accuracy": epoch / 10, "loss": None, "linear_cka": 0.4}
            report(board, epoch, alignment=alignment, metrics=metrics)
        end(board, test={"accuracy": 0.15})
    run = read(tmp_path / "placement-0007")
    assert set(run.Tags()["scalars"]) == {
        "accuracy",
        "alignment/linear_cka",
        "test/accuracy",
        "result/accuracy",
        "result/flops",
    }
    assert scalars(tmp_path / "placement-0007", "accuracy") == [(1, 0.1), (2, 0.2)]
    assert scalars(tmp_path / "placement-0007", "result/flops") == [(2, 2000)]
    assert [image.step for image in run.Images("heat_map/linear_cka")] == [1, 2]
    assert run.Images("heat_map/linear_cka")[0].encoded_image_string.startswith(b"\x89PNG")
    assert run.Images("heat_map/linear_cka")[0].width > 200
    assert "t1-v1 · product" in run.Tensors("trial")[0].tensor_proto.string_val[0].decode()
    assert run.Tensors("state")[0].tensor_proto.string_val[0] == b"done"


def test_tensorboards_own_pages_list_scalars_images_and_text(tmp_path):
    with TrialBoard(tmp_path) as board:
        start(board)
        report(board, 1, metrics={"linear_cka": 0.4}, alignment={"linear_cka": [[0.1, 0.2]]})
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = RequestContext()
    found_scalars = provider.list_scalars(context, experiment_id="", plugin_name="scalars")
    found_images = provider.list_blob_sequences(context, experiment_id="", plugin_name="images")
    found_text = provider.list_tensors(context, experiment_id="", plugin_name="text")
    assert set(found_scalars["placement-0007"]) == {"alignment/linear_cka"}
    assert set(found_images["placement-0007"]) == {"heat_map/linear_cka"}
    assert set(found_text["placement-0007"]) == {"trial"}


def test_a_measure_without_a_matrix_is_named_as_one(tmp_path):
    with TrialBoard(tmp_path, measures=["mutual_knn"]) as board:
        start(board)
        report(board, 1, metrics={"mutual_knn": 0.3})
    assert scalars(tmp_path / "placement-0007", "alignment/mutual_knn") == [(1, 0.3)]


def test_hparams_hold_the_point_and_the_objectives_only(tmp_path):
    with TrialBoard(tmp_path, objectives=ACCURACY_AND_FLOPS) as board:
        start(board)
        report(board, 1)
        end(board)
    content = (
        read(tmp_path / "placement-0007").SummaryMetadata(hparams.SESSION_START_INFO_TAG).plugin_data.content
    )
    values = hparams.parse_session_start_info_plugin_data(content).hparams
    assert values["learning_rate"].number_value == 0.01
    assert values["layer_1"].bool_value is True
    assert values["network"].string_value == "t1-v1 · product"
    experiment = declared(tmp_path)
    assert {info.name for info in experiment.hparam_infos} == set(values)
    assert [info.name.tag for info in experiment.metric_infos] == ["result/accuracy", "result/flops"]


def test_the_hparams_page_leads_with_stage_network_and_label(tmp_path):
    with TrialBoard(tmp_path) as board:
        start(board)
        start(board, "confirm-0001", role="baseline", label="late", point={"baseline": "late"})
    found = {info.name: info.differs for info in declared(tmp_path).hparam_infos}
    assert [name for name, is_first in found.items() if is_first] == ["stage", "network", "label"]
    assert "baseline" not in found  # the label says it


def test_a_cost_has_no_curve(tmp_path):
    with TrialBoard(tmp_path) as board:
        start(board)
        report(board, 1, metrics={"accuracy": 0.1, "flops": 2000})
    assert read(tmp_path / "placement-0007").Tags()["scalars"] == ["accuracy"]


def test_a_later_stage_and_a_resumed_search_add_their_parameters(tmp_path):
    with TrialBoard(tmp_path) as board:
        start(board, "hyperparameters-0001", point={"learning_rate": 0.01})
        start(board, "placement-0001", point={"layer_1": True})
    with TrialBoard(tmp_path) as resumed:
        start(resumed, "other-0001", point={"warmup": 0.1})
    names = {info.name for info in declared(tmp_path).hparam_infos}
    assert {"learning_rate", "layer_1", "warmup"} <= names
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_tensorboards_hparams_page_shows_trials_of_both_stages(tmp_path):
    with TrialBoard(tmp_path, objectives=ACCURACY_AND_FLOPS) as board:
        start(board, "hyperparameters-0001", point={"learning_rate": 0.01})
        end(board, "hyperparameters-0001")
        start(board, "placement-0001", point={"layer_1": True})
        end(board, "placement-0001", state="failed", reason="out of memory", metrics={})
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = backend_context.Context(TBContext(data_provider=provider, multiplexer=multiplexer))
    found = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, found, [])
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=10, allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]
    )
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    rows = {group.sessions[0].name: group for group in groups}
    assert {"learning_rate", "layer_1"} <= {info.name for info in experiment.hparam_infos}
    assert rows["hyperparameters-0001"].hparams["learning_rate"].number_value == 0.01
    assert rows["placement-0001"].hparams["layer_1"].bool_value is True
    values = {value.name.tag: value.value for value in rows["hyperparameters-0001"].metric_values}
    assert values == {"result/accuracy": pytest.approx(0.2), "result/flops": 2000}
    assert rows["placement-0001"].sessions[0].status == api_pb2.STATUS_FAILURE
    assert not rows["placement-0001"].metric_values


def test_a_second_start_replaces_the_run_and_a_bare_report_continues_it(tmp_path):
    with TrialBoard(tmp_path) as board:
        start(board)
        report(board, 1)
        report(board, 2)
    with TrialBoard(tmp_path) as resumed:
        start(resumed)
        report(resumed, 1)
    with TrialBoard(tmp_path) as resumed_again:
        report(resumed_again, 2)
    assert scalars(tmp_path / "placement-0007", "accuracy") == [(1, 0.1), (2, 0.2)]


def test_a_run_stays_inside_its_folder_whatever_the_trial_is_called(tmp_path):
    with TrialBoard(tmp_path / "board") as board:
        start(board, "../../out")
    assert [path.name for path in (tmp_path / "board").iterdir() if path.is_dir()] == ["_.._out"]


def test_what_was_reported_survives_a_killed_driver(tmp_path):
    program = f"""
import os, signal
from pathlib import Path
from nas.report.tensorboard import TrialBoard
board = TrialBoard(Path({str(tmp_path)!r}))
board.start({{"trial": "s-1", "stage": "s", "network": "n", "seed": 1, "point": {{}}}})
board.report({{"trial": "s-1", "epoch": 1, "metrics": {{"accuracy": 0.5}}}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == -9
    assert scalars(tmp_path / "s-1", "accuracy") == [(1, 0.5)]
    assert "s-1" in {path.name for path in tmp_path.iterdir()}
