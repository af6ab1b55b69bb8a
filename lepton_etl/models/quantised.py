"""Round what the leaves of a fitted forest or boosting say to a grid, and drop the splits that then decide nothing.

Two leaves of one split that say the same become one, from the bottom up: fewer nodes are fewer bytes and less work.
A leaf's grid is a share of the span of the energies that were learnt; of boosting, whose trees add up, that over the
root of their number. Thresholds are left as they are: the stored node has eight bytes for each whatever they hold.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_LEAF: Final = -1
_NOTHING: Final = -2

Nodes = npt.NDArray[Any]


def quantised(model: Any, step: float) -> Any | None:
    """Return a copy with leaves on a grid of `step`, in the model's own unit; None of what has no such trees.

    The leaves of a gamma deviance are logarithms: they have no step.
    """
    if step <= 0:
        return None
    found = copy(model)
    if hasattr(model, "_predictors") and model.loss != "gamma":
        of_tree = step / np.sqrt(max(1, len(model._predictors)))
        found._predictors = [[_of_boosting(tree, of_tree) for tree in trees] for trees in model._predictors]
        return found
    if hasattr(model, "estimators_") and hasattr(model.estimators_[0], "tree_"):
        found.estimators_ = [_of_forest(one, step) for one in model.estimators_]
        return found
    return None


def _of_boosting(tree: Any, step: float) -> Any:
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

    nodes = tree.nodes.copy()
    is_leaf = nodes["is_leaf"].astype(bool)
    nodes["value"][is_leaf] = _rounded(nodes["value"][is_leaf], step)
    _merge(nodes["left"], nodes["right"], is_leaf, nodes["value"])
    nodes["is_leaf"] = is_leaf
    kept, place = _kept(nodes["left"], nodes["right"], is_leaf)
    nodes = nodes[kept]
    for side in ("left", "right"):
        nodes[side] = np.where(is_leaf[kept], 0, place[nodes[side]])
    return TreePredictor(nodes, tree.binned_left_cat_bitsets, tree.raw_left_cat_bitsets)


def _of_forest(one: Any, step: float) -> Any:
    from sklearn.tree._tree import Tree

    state = one.tree_.__getstate__()
    nodes, values = state["nodes"].copy(), state["values"].copy()
    is_leaf = nodes["left_child"] == _LEAF
    said = values[:, 0, 0]
    said[is_leaf] = _rounded(said[is_leaf], step)
    _merge(nodes["left_child"], nodes["right_child"], is_leaf, said)
    values[:, 0, 0] = said
    kept, place = _kept(nodes["left_child"], nodes["right_child"], is_leaf)
    nodes, leaf = nodes[kept], is_leaf[kept]
    for side in ("left_child", "right_child"):
        nodes[side] = np.where(leaf, _LEAF, place[nodes[side]])
    nodes["feature"][leaf], nodes["threshold"][leaf] = _NOTHING, _NOTHING
    tree = Tree(one.tree_.n_features, np.array([1], dtype=np.intp), 1)
    tree.__setstate__(state | {"node_count": len(nodes), "nodes": nodes, "values": values[kept]})
    found = copy(one)
    found.tree_ = tree
    return found


def _rounded(values: npt.NDArray[np.float64], step: float) -> npt.NDArray[np.float64]:
    return np.asarray(np.round(values / step) * step)


def _merge(left: Nodes, right: Nodes, is_leaf: npt.NDArray[np.bool_], said: Nodes) -> None:
    """Make a leaf of each split whose two leaves say the same; a child always stands after its parent."""
    for node in np.flatnonzero(~is_leaf)[::-1]:
        one, other = left[node], right[node]
        if is_leaf[one] and is_leaf[other] and said[one] == said[other]:
            is_leaf[node], said[node] = True, said[one]


def _kept(left: Nodes, right: Nodes, is_leaf: npt.NDArray[np.bool_]) -> tuple[Nodes, Nodes]:
    """Return the nodes that are still reached, in their order, and where each stands among them."""
    reached = np.zeros(len(is_leaf), dtype=bool)
    reached[0] = True
    for node in np.flatnonzero(~is_leaf):
        if reached[node]:
            reached[left[node]] = reached[right[node]] = True
    return np.flatnonzero(reached), np.cumsum(reached) - 1
