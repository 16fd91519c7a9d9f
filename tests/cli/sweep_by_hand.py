"""A sweep of four short runs."""

SWEEP = """\
method: grid
command: ["${env}", regx, sweep, trial, rectangular, "${args_json_file}"]
metric: {name: val/acc, goal: maximize}
parameters:
  technique: {values: [{label: plain}, {label: alive, lambda: 0.01}]}
  dataset: {value: iris}
  depth: {value: 1}
  epochs: {value: 2}
  plots: {value: false}
"""
BESIDE = "summary: Which one\nseeds: 2\nbaseline: plain\n"
