# %% [markdown]
"""
Which rows are strange
======================

An autoencoder of ordinary rows gives a score to new ones: how unlikely they are, in nats. Here it learns from benign
tumours alone; malignant ones should stand out. It fits and scores as scikit-learn's own detectors do.

:Family: variational
:Use: anomaly scores
:Data: table
"""

# %%
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.preprocessing import StandardScaler

from lightning_ae import AutoencoderEstimator
from lightning_ae.figures import Figure, caption

# %% [markdown]
# Half of the benign rows are there to learn from; all others are to be scored.

# %%
x, y = load_breast_cancer(return_X_y=True)
benign = np.flatnonzero(y == 1)
ordinary = x[np.random.default_rng(0).permutation(benign)[: len(benign) // 2]]
new = np.ones(len(x), bool)
new[np.random.default_rng(0).permutation(benign)[: len(benign) // 2]] = False
detector = AutoencoderEstimator(latent_dim=4, random_state=0).fit(ordinary)
scores = -detector.score_samples(x[new])  # scikit-learn's sign: larger is more ordinary

# %% [markdown]
# The area under the curve is the chance that a malignant row has a higher score than a benign one. Beside it, the
# squared error of as many principal components.

# %%
scaler = StandardScaler().fit(ordinary)
pca = PCA(4).fit(scaler.transform(ordinary))
rows = scaler.transform(x[new])
errors = ((rows - pca.inverse_transform(pca.transform(rows))) ** 2).sum(axis=1)
figure = Figure((4.6, 4.6), dpi=120, layout="constrained")
axes = figure.subplots()
for name, each in {"autoencoder": scores, "PCA": errors}.items():
    wrongly, rightly, _ = roc_curve(y[new] == 0, each)
    axes.plot(wrongly, rightly, label=name)
axes.set(xlabel="benign rows called strange", ylabel="malignant rows found", aspect="equal")
axes.legend(frameon=False)
area, of_pca = (float(roc_auc_score(y[new] == 0, each)) for each in (scores, errors))
caption(figure, "area under the curve", area, {"four principal components": of_pca}, better="higher")
