"""The demo: a stacked ConvLSTM learns to continue moving handwritten digits.

`task` makes the data, `models` the contenders, `training` trains them side by side, `scores` judges and `pictures`
shows their forecasts. `python -m examples.moving_mnist` runs all of it.
"""
