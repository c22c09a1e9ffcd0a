"""Constraints on answers: schemas, expressions and grammars, compiled by llguidance into masks over the vocabulary."""

from halfbyte.grammar.constraint import (
    Constraint,
    Grammar,
    choice_constraint,
    constraint_of,
    grammar_constraint,
    json_schema_constraint,
    regex_constraint,
    type_constraint,
)
from halfbyte.grammar.guide import Guide, Plan, Reasoning, Rules
from halfbyte.grammar.matcher import vocabulary_of
from halfbyte.grammar.schema import closed, schema_of, value_of

__all__ = [
    "Constraint",
    "Grammar",
    "Guide",
    "Plan",
    "Reasoning",
    "Rules",
    "choice_constraint",
    "closed",
    "constraint_of",
    "grammar_constraint",
    "json_schema_constraint",
    "regex_constraint",
    "schema_of",
    "type_constraint",
    "value_of",
    "vocabulary_of",
]
