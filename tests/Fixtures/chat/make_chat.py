"""What real Jinja makes of templates, for the tests of LoraSharp.Formats.Chat.

Usage (needs python3-jinja2 3.1):
  make_chat.py                   writes features.jsonl beside this script: one line a feature of the language
  make_chat.py FOLDER OUT.jsonl  renders every *.jinja of a folder with the conversations below (real models' templates
                                 belong to their makers, so that file stays out of the repository)

The environment is that of transformers' chat_template_utils: immutable sandbox, trim_blocks, lstrip_blocks, loop controls,
the generation tag, tojson without HTML escapes, raise_exception, strftime_now (here a fixed clock).
"""

import datetime
import glob
import json
import os
import sys

import jinja2
import jinja2.ext
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2024, 7, 6, 9, 5, 3)


class Sandbox(ImmutableSandboxedEnvironment):
    # Jinja 3.1.5 refuses these two on lists as well.
    def is_safe_attribute(self, obj, attr, value):
        if isinstance(obj, list) and attr in ("pop", "clear"):
            return False
        return super().is_safe_attribute(obj, attr, value)


class Generation(Extension):
    tags = {"generation"}
    blocks, spans = None, None

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(lineno)

    @jinja2.pass_eval_context
    def _mark(self, context, caller):
        text = caller()
        start = len("".join(Generation.blocks))
        Generation.spans.append((start, start + len(text)))
        return text


def environment():
    env = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: NOW.strftime(format)
    return env


def render(template, variables):
    Generation.blocks, Generation.spans = [], []
    try:
        compiled = environment().from_string(template)
        for block in compiled.root_render_func(compiled.new_context({"tools": None, "documents": None, **variables})):
            Generation.blocks.append(block)
        return {"text": "".join(Generation.blocks), "spans": Generation.spans}
    except Exception as error:
        return {"error": str(error), "error_type": type(error).__name__}


def main_features():
    from features import FEATURES

    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "features.jsonl"), "w", encoding="utf-8") as out:
        for template, variables in FEATURES:
            out.write(json.dumps({"template": template, "variables": variables, **render(template, variables)}, ensure_ascii=True) + "\n")
    print(len(FEATURES))


TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Current \"weather\" of a city <b>&</b> more", "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "City, é"}, "unit": {"type": "string", "enum": ["C", "F"], "default": "C"}, "days": {"type": ["integer", "null"], "nullable": True}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "add", "description": "Adds", "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "array", "items": {"type": "number"}}, "o": {"type": "object", "properties": {"x": {"type": "boolean"}}}}}, "return": {"type": "number"}}},
    {"type": "function", "function": {"name": "noargs", "description": "", "parameters": {"type": "object", "properties": {}}}},
]
S = {"role": "system", "content": "You are terse."}
U = {"role": "user", "content": "What is 2+2? <tag> & \"q\" 😀"}
A = {"role": "assistant", "content": "  4\n\nfour "}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_123ab", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo", "unit": "C", "days": 2, "f": 1.0, "ok": True, "none": None}}}]}
CALL_TEXT = {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "123456789", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Oslo\"}"}}]}
CALL_EMPTY = {"role": "assistant", "content": "", "tool_calls": [{"id": "123456789", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}]}
TOOL = {"role": "tool", "name": "get_weather", "tool_call_id": "123456789", "content": "{\"t\": -3}"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": " nice?"}]}
THINK = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4", "reasoning_content": None}
REASON = {"role": "assistant", "content": "4", "reasoning_content": "two and two", "thinking": "two and two"}
DOCS = [{"title": "T1", "text": "Some text", "doc_id": 0}, {"title": "T2", "text": "Other"}]
CONVERSATIONS = [
    ([U], {}), ([S, U], {}), ([S, U, A, U], {}), ([U, A, U, A], {}), ([U, U], {}), ([A, U], {}), ([S], {}), ([], {}),
    ([U], {"tools": TOOLS}), ([S, U], {"tools": TOOLS}), ([S, U, CALL, TOOL], {"tools": TOOLS}), ([U, CALL_TEXT, TOOL], {"tools": TOOLS}),
    ([U, CALL_EMPTY, TOOL, A], {"tools": TOOLS}), ([S, U, CALL_EMPTY, TOOL, TOOL, A, U], {"tools": TOOLS}), ([U, CALL_EMPTY, TOOL], {}), ([U, A, U], {"tools": []}),
    ([PARTS], {}), ([S, PARTS, A, U], {}), ([U, THINK, U], {}), ([U, REASON, U, REASON], {}), ([U, REASON, U], {"enable_thinking": False}),
    ([U], {"enable_thinking": True}), ([S, U, A, U], {"enable_thinking": False, "thinking": True}), ([U], {"documents": DOCS}), ([S, U], {"documents": DOCS, "tools": TOOLS}),
    ([{"role": "developer", "content": "Be brief."}, U], {"reasoning_effort": "high", "model_identity": "You are X."}), ([{"role": "weird", "content": "?"}], {}),
    ([{"role": "system", "content": "/no_think"}, U, {"role": "assistant", "content": "x", "thinking": "deep", "tool_calls": CALL_EMPTY["tool_calls"]}, TOOL], {"tools": TOOLS, "builtin_tools": ["browser", "python"]}),
    ([S, U, {"role": "assistant", "content": "Paris", "prefix": True}], {"continue_final_message": True, "date_string": "26 Jul 2024", "xml_tools": True}),
    ([{"role": "user"}], {}), ([{"role": "user", "content": None}], {}), ([U, {"role": "ipython", "content": {"output": [1, 2.5, None]}}], {}),
]


def main_corpus(folder, path):
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    count = 0
    with open(path, "w", encoding="utf-8") as out:
        for file in sorted(glob.glob(folder + "/*.jinja")):
            template = open(file, encoding="utf-8", newline="").read()
            for messages, more in CONVERSATIONS:
                for prompt in (False, True):
                    variables = {**tokens, **more, "messages": messages, "add_generation_prompt": prompt}
                    case = {"file": os.path.basename(file), "variables": variables, **render(template, variables)}
                    out.write(json.dumps(case, ensure_ascii=True) + "\n")
                    count += 1
    print(count)


if len(sys.argv) > 2:
    main_corpus(sys.argv[1], sys.argv[2])
else:
    main_features()
