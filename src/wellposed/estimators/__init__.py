"""Networks for tables as scikit-learn sees them: `Classifier` and `Regressor`."""
