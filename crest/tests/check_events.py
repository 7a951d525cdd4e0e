"""Reads events as lines of JSON and holds each against a schema.

    check_events.py SCHEMA < EVENTS

The schema is closed first: what it doesn't name must not be there. Prints how many events there
were of each type.
"""

import collections
import json
import sys

import jsonschema


def close(schema):
    """Forbids what isn't named, in every object that names anything."""
    if isinstance(schema, dict):
        for value in list(schema.values()):
            close(value)
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
    elif isinstance(schema, list):
        for value in schema:
            close(value)


with open(sys.argv[1], encoding="utf-8") as file:
    schema = json.load(file)
jsonschema.Draft202012Validator.check_schema(schema)
close(schema)
validator = jsonschema.Draft202012Validator(
    schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)
counts = collections.Counter()
for line in sys.stdin:
    event = json.loads(line)
    problems = list(validator.iter_errors(event))
    if problems:
        # What is wrong with it as an event of its own type says more than that it is of none.
        name = event["type"].removeprefix("crest.").removesuffix(".v1")
        closer = schema["$defs"].get(name, False)
        closer = {"$defs": schema["$defs"], **closer} if closer else False
        problems += jsonschema.Draft202012Validator(closer).iter_errors(event)
        sys.exit("\n".join([line, *(problem.message[:500] for problem in problems)]))
    counts[event["type"]] += 1
json.dump(counts, sys.stdout)
