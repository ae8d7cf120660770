"""The demo: a stacked ConvLSTM learns to continue moving handwritten digits.

`task` generates the data, `models` defines the two models, `training` trains them in parallel, `interruption` lets
Ctrl-C end the training, `scores` evaluates their forecasts, and `pictures` draws them. Run it with
`python -m examples.moving_mnist`.
"""
