"""The image: pinned, small rights, and a reader of Dockerfiles that skips nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.dockerfile import KNOWN, DockerfileError, ignored, lint, parse, stages
from tests.kit.documents import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
IGNORE = (ROOT / ".dockerignore").read_text().splitlines()


def test_dockerfile_is_clean() -> None:
    """Our Dockerfile breaks none of the rules."""
    assert lint(TEXT) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("python:3.12-slim-bookworm", "python:latest", "names no version"),
        ("python:3.12-slim-bookworm", "python", "names no version"),
        ("USER 10001:10001", "USER 0:0", "runs as 0:0"),
        ("USER 10001:10001", "USER ostiary", "runs as ostiary"),
        ("COPY requirements.lock ./", "ADD requirements.lock ./", "ADD is not an instruction"),
        ('ENTRYPOINT ["ostiary", "broker", "serve"]', "ENTRYPOINT ostiary", "shell form"),
        ('CMD ["demo"]', "CMD demo", "shell form"),
        ("EXPOSE 8420", "WORKDIR /", "0 EXPOSE"),
        ("--require-hashes ", "", "without hashes"),
        (" AS broker", "", "without a name"),
    ],
)
def test_lint_complains(old: str, new: str, complaint: str) -> None:
    """Each rule refuses a Dockerfile that breaks it."""
    assert old in TEXT
    changed = TEXT.replace(old, new)

    assert any(complaint in wrong for wrong in lint(changed)), lint(changed)


def test_stages_in_order() -> None:
    """The broker is the last stage, so it is what a plain build makes."""
    found = stages(parse(TEXT))

    assert [stage.name for stage in found] == ["build", "runtime", "demo", "broker"]
    assert {stage.base for stage in found} == {"python:3.12-slim-bookworm", "runtime"}


def test_only_the_demo_has_softhsm() -> None:
    """SoftHSM is installed in the demo stage and nowhere else."""
    for stage in stages(parse(TEXT)):
        installs = any("softhsm" in step.rest for step in stage.steps)
        assert installs == (stage.name == "demo")


@pytest.mark.parametrize("text", ["ADD a b\n", "RUN a \\\n", "run a\n", "ONBUILD RUN a\n"])
def test_unknown_is_refused(text: str) -> None:
    """An instruction that the reader does not know, or half a one, is an error."""
    with pytest.raises(DockerfileError):
        parse(text)


@given(
    st.one_of(
        st.text(),
        st.lists(
            st.tuples(
                st.sampled_from([*KNOWN, "ADD"]), st.text(alphabet=" \"'\\\\[]{}$=:@aAS\n")
            ).map(" ".join)
        ).map("\n".join),
    )
)
def test_lint_answers_whatever_it_is_given(text: str) -> None:
    """Any text gets complaints, never an exception; and nothing but a whole Dockerfile is clean."""
    assert lint(text) != []


def test_continuation_and_comments() -> None:
    """Continued lines are joined, comments between them left out, and lines numbered."""
    (step,) = parse("# first\nRUN a \\\n  # no\n  && b\n")

    assert (step.line, step.name, step.rest.split()) == (2, "RUN", ["a", "&&", "b"])


def test_everything_copied_exists_and_is_let_in() -> None:
    """What the Dockerfile copies is in the tree, and .dockerignore lets it into the build."""
    copies = [
        step.words()[:-1]
        for stage in stages(parse(TEXT))
        for step in stage.steps
        if step.name == "COPY"
    ]
    names = [name for words in copies for name in words if not words[0].startswith("--from")]

    assert len(names) > 6
    assert [name for name in names if not (ROOT / name).exists()] == []
    assert [name for name in names if ignored(name.rstrip("/"), IGNORE)] == []


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("tests/test_x.py", True),
        (".git/config", True),
        (".venv/bin/python", True),
        ("broker/app.py", False),
        ("broker/hsm/worker.py", False),
        ("broker/__pycache__/app.pyc", True),
        ("verifier/tdx/__pycache__/quote.cpython-312.pyc", True),
        ("verifier/x.pyc", True),
        ("secrets.pem", True),
    ],
)
def test_dockerignore(path: str, out: bool) -> None:
    """Only source goes into the build."""
    assert ignored(path, IGNORE) == out
