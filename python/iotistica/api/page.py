"""The OpenAPI document as a page for people: plain HTML without script. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import orjson

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
details { border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0;
          padding: .4rem .7rem; }
summary { cursor: pointer; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { background: var(--soft); border-radius: 6px; overflow-x: auto; padding: .6rem; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid var(--line); padding: .2rem .6rem .2rem 0; text-align: left;
         vertical-align: top; }
.method { display: inline-block; font-weight: 600; min-width: 4.2rem; }
.GET { color: #2a7; } .POST { color: #37d; } .PUT, .PATCH { color: #b80; } .DELETE { color: #d44; }
nav a { margin-right: .8rem; white-space: nowrap; }
"""


def page(document: Mapping[str, Any], json_url: str) -> str:
    """HTML of the document; `json_url` is where the document itself is."""
    info = document["info"]
    tags = [tag["name"] for tag in document["tags"]]
    links = " ".join(f'<a href="#{escape(tag)}">{escape(_words(tag))}</a>' for tag in tags)
    return "\n".join(
        (
            "<!doctype html>",
            f'<html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>',
            '<meta name="viewport" content="width=device-width">',
            f"<style>{_STYLE}</style>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
            f'<p><a href="{escape(json_url)}">OpenAPI {escape(document["openapi"])} document</a> '
            "for code generators and other tools.</p>",
            f"<nav>{links}</nav>",
            *(line for tag in tags for line in _section(document, tag)),
            "</html>",
        )
    )


def _words(tag: str) -> str:
    """`DeadLetters` as `Dead letters`."""
    spaced = "".join(f" {c.lower()}" if c.isupper() else c for c in tag).strip()
    return spaced[:1].upper() + spaced[1:]


def _section(document: Mapping[str, Any], tag: str) -> Iterator[str]:
    yield f'<h2 id="{escape(tag)}">{escape(_words(tag))}</h2>'
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield from _operation(method.upper(), path, operation)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<details id="{escape(operation["operationId"])}"><summary>'
    yield f'<span class="method {method}">{method}</span> <code>{escape(path)}</code> '
    yield f"{escape(operation['summary'])}</summary>"
    for paragraph in operation["description"].split("\n\n"):
        yield f"<p>{escape(paragraph)}</p>"
    if parameters := operation.get("parameters"):
        yield "<table><tr><th>Parameter</th><th>In</th><th>Rule</th></tr>"
        yield from (_parameter(one) for one in parameters)
        yield "</table>"
    if body := operation.get("requestBody"):
        yield from _content("Body", body["content"])
    for status, response in operation["responses"].items():
        content = response.get("content", {}) if status.startswith("2") else {}
        yield from _content(f"{status}: {response['description']}", content)
    yield "</details>"


def _parameter(one: Mapping[str, Any]) -> str:
    rule = orjson.dumps(one["schema"]).decode()
    needed = "" if one["required"] else ", optional"
    return (
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{one['in']}{needed}</td>"
        f"<td><code>{escape(rule)}</code></td></tr>"
    )


def _content(title: str, content: Mapping[str, Any]) -> Iterator[str]:
    yield f"<p>{escape(title)}</p>"
    for media_type, one in content.items():
        if "example" in one:
            text = orjson.dumps(one["example"], option=orjson.OPT_INDENT_2).decode()
            yield f"<pre title='{escape(media_type)}'>{escape(text)}</pre>"
