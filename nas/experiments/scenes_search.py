"""Generated scenes whose questions need ties: the planted truth that the platform is checked against.

    python nas/run_search.py scenes_search

Five or six coloured shapes on a grid; mostly "what shape is red?", now and then "what colour is the shape left of
the red circle?". The question alone says nothing about the answer, and a picture's one summary vector must hold
every shape with its colour, unless the question may look into the picture: ties win by construction. A network
with ties stays on a plateau for about a thousand steps and then leaves it within a few hundred, so that the first
rung comes late.
"""

from dataclasses import replace

from model.training.config import TrainingConfig
from nas.experiments._experiment import DataConfig, EvaluationConfig, StoppingConfig
from nas.experiments.easy_vqa_search import EXPERIMENT as EASY_VQA
from search_spaces.training_hyperparameters import Real, TrainingHyperparameters

EXPERIMENT = replace(
    EASY_VQA,
    name="scenes_search",
    data=DataConfig(
        source="scenes",
        options={
            "objects_min": 5,
            "objects_max": 6,
            "weight_colour_of_shape": 0.0,
            "weight_shape_of_colour": 9.0,
            "weight_colour_beside": 1.0,
            "weight_shape_beside": 0.0,
            "weight_shape_at": 0.0,
            "weight_colour_at": 0.0,
        },
    ),
    training=TrainingConfig(epochs=8, steps_per_epoch=180, batch_size=32),
    evaluation=EvaluationConfig(validation_rows=1200, test_rows=3000, alignment_rows=256),
    hyperparameters=replace(
        EASY_VQA.hyperparameters,
        space=TrainingHyperparameters(
            learning_rate=Real(5e-4, 2e-3, log=True),
            dropout=Real(0.0, 0.05),
            weight_decay=Real(1e-3, 0.1, log=True),
        ),
        num_trials=4,
        stopping=StoppingConfig(first_epoch=4, reduction=2),
    ),
    placement=replace(EASY_VQA.placement, num_trials=10, stopping=StoppingConfig(first_epoch=4, reduction=2)),
)
