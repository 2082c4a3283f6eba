"""Rules as expectations of Great Expectations, and the rows that break them.

Great Expectations takes three seconds to import, so it is imported in the functions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestration.quality.rules import Rule

if TYPE_CHECKING:
    import pandas as pd

PERSONAL = "user_id"
"""Column whose values are on no page and in no result: only files of failing rows hold them."""


def run(name: str, rules: Mapping[int, Rule], frame: pd.DataFrame, result_format: str = "SUMMARY") -> Any:
    """Run rules over a table; an outcome's ``meta`` says which rule it belongs to.

    Parameters
    ----------
    name
        Name of the suite.
    rules
        By their place in it.
    frame
        The table.
    result_format
        ``"COMPLETE"`` lists the index of every row that breaks a rule.

    Returns
    -------
    ExpectationSuiteValidationResult
        Without values of users.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars={"globally": False},
        )
    )
    asset = context.data_sources.add_pandas("tessera").add_dataframe_asset(name)
    suite = gx.ExpectationSuite(
        name=name, expectations=[_expectation(place, rule) for place, rule in rules.items()]
    )
    context.suites.add(suite)
    batch = asset.add_batch_definition_whole_dataframe("table").get_batch({"dataframe": frame})
    result = batch.validate(suite, result_format=result_format)
    for outcome in result.results:
        if PERSONAL in rules[outcome.expectation_config.meta["place"]].columns:
            outcome.result = {
                part: [] if isinstance(value, list) and part.startswith("partial_") else value
                for part, value in outcome.result.items()
            }
    return result


def breaking(name: str, rules: Mapping[int, Rule], frame: pd.DataFrame) -> dict[int, list[int]]:
    """Return, for each rule about rows, the index of every row that breaks it, in order.

    Parameters
    ----------
    name
        Name of the suite.
    rules
        By their place in it.
    frame
        The table, whose index numbers its rows.
    """
    if not rules:
        return {}
    outcomes = run(name, rules, frame, "COMPLETE").results
    return {
        outcome.expectation_config.meta["place"]: sorted(
            int(row) for row in outcome.result.get("unexpected_index_list") or ()
        )
        for outcome in outcomes
    }


def merge(results: Sequence[Any]) -> Any:
    """Return one result that holds the outcomes of several, in the order of their rules."""
    merged = results[0]
    merged.results = sorted(
        (outcome for result in results for outcome in result.results),
        key=lambda outcome: outcome.expectation_config.meta["place"],
    )
    rules = len(merged.results)
    kept = sum(bool(outcome.success) for outcome in merged.results)
    merged.statistics = {
        "evaluated_expectations": rules,
        "successful_expectations": kept,
        "unsuccessful_expectations": rules - kept,
        "success_percent": 100.0 * kept / max(rules, 1),
    }
    merged.success = kept == rules
    return merged


def _expectation(place: int, rule: Rule) -> Any:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    arguments = dict(rule.arguments)
    if rule.unless is not None:
        column, values = rule.unless
        arguments["row_condition"] = Column(column).is_not_in(list(values))
    if rule.only is not None:
        column, values = rule.only
        arguments["row_condition"] = Column(column).is_in(list(values))
    return getattr(gxe, rule.expectation)(
        **arguments,
        severity="critical" if rule.severity == "error" else "warning",
        notes=rule.why or None,
        meta={"place": place},
    )
