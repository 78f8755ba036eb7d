"""Networks for tables as scikit-learn sees them: `Classifier` and `Regressor`.

rows        what fit and predict are given, checked by scikit-learn's conventions, as a frame
training    from encoded rows to networks: parts that are held out in turn, the recipe of budget "0", the choice of an ensemble
ensemble    networks that answer together, and the rows held out from each
networks    what both estimators have in common, from `fit` to `save`
classifier  probabilities, and the temperature that makes them right on rows held out
regressor   numbers, their spread and intervals
importance  what a column is worth on rows held out
saved       the estimator in a folder, without pickle
"""
