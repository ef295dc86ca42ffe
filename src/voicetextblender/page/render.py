"""A page as one file, with its style, drawings and clips inside, that asks the network for nothing."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

_PACKAGE = "voicetextblender.page"


def render_page(package: str, template: str, *, title: str, **values: Any) -> str:
    """A template that extends `layout.html.jinja` and may import from `macros.html.jinja`, as text.

    Args:
        package: where the template lies.
        values: what it shows; plain text is escaped, `Markup` is not.
    """
    texts = {name: _read(_PACKAGE, name) for name in ("layout.html.jinja", "macros.html.jinja")}
    texts[template] = _read(package, template)
    environment = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup(_read(_PACKAGE, "page.css"))
    return environment.get_template(template).render(title=title, style=style, **values)


def _read(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text("utf-8")
