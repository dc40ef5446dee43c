"""Contexts of builds, compared with the archive that the SDK of the engine makes of the same directory."""

import io
import os
import socket
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths
from hypothesis import given
from hypothesis import strategies as st

from sidegate.cli.context import FOREIGN_DOCKERFILE, IGNORE_FILE, PIECE, Context
from sidegate.cli.dockerignore import Ignore
from sidegate.errors import InvalidInputError


def plant(root: Path, *paths: str) -> Path:
    """Files whose content is their path; one that ends in a slash is a directory."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_text(path)
    return root


def unpacked(context: Context) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(context.pieces()))) as archive:
        return {member.name: member for member in archive}


def content(context: Context, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(b"".join(context.pieces()))) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


TREE = (
    *("Dockerfile", "a.txt", "b.log", "src/a.py", "src/b.log", "src/deep/c.py", "src/deep/d.log", "empty/"),
    *(
        "node_modules/x/index.js",
        "node_modules/x/README.md",
        "build/out/keep.txt",
        "build/out/x.o",
        ".git/config",
        "a[b",
    ),
)


@pytest.mark.parametrize(
    "patterns",
    [
        [],
        ["*.log"],
        ["**/*.log"],
        ["node_modules", ".git"],
        ["node_modules/", "/.git", "./build"],
        ["*", "!src"],
        ["**", "!a.txt"],
        ["src/*", "!src/a.py"],
        ["build/**", "!build/out/keep.txt"],
        ["build", "!build/out/*.txt"],
        ["!a.txt", "*.txt"],
        ["*.txt", "!a.txt", "a.*"],
        ["src/deep"],
        ["**/deep"],
        ["s?c/*.py"],
        ["[a-b].*"],
        ["Dockerfile", ".dockerignore", "*"],
        ["src/../a.txt"],
        ["."],
        ["**/x/**", "!**/README.md"],
        ["src/**"],
        ["*/*/*.py"],
    ],
    ids=" ".join,
)
def test_the_same_files_go_in_as_with_the_sdk(tmp_path: Path, patterns: list[str]) -> None:
    plant(tmp_path, *TREE)
    (tmp_path / IGNORE_FILE).write_text("\n".join(["# a comment", *patterns, ""]))
    ours = set(unpacked(Context.of(tmp_path)))
    theirs = exclude_paths(str(tmp_path), list(patterns))
    assert ours == theirs


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("node_modules\n!**/README.md\n", "node_modules/x/README.md", "node_modules/x/index.js"),
        ("*\n!src/**/*.py", "src/deep/c.py", "src/b.log"),
        ("[^a].log", "a.txt", "b.log"),
        ("\ufeff*.txt\n#Dockerfile\n#*\n", "b.log", "a.txt"),
    ],
)
def test_what_docker_documents_and_the_sdk_does_not(tmp_path: Path, text: str, inside: str, outside: str) -> None:
    """It looks for exceptions below directories that only a pattern names, ^ in a class is Go's, a mark is skipped."""
    plant(tmp_path, *TREE)
    (tmp_path / IGNORE_FILE).write_text(text)
    names = set(unpacked(Context.of(tmp_path)))
    assert inside in names
    assert outside not in names


WORDS = st.sampled_from(["a", "b", "ab", "*", "**", "?", "a*", "*b", "[ab]"])


@given(
    st.lists(st.tuples(st.booleans(), st.lists(WORDS, min_size=1, max_size=3)), max_size=4),
    st.lists(st.sampled_from(["a", "b", "ab", "ba"]), min_size=1, max_size=3),
)
def test_a_directory_is_skipped_only_where_nothing_below_can_be_brought_back(
    patterns: list[tuple[bool, list[str]]], parts: list[str]
) -> None:
    ignore = Ignore([("!" if back else "") + "/".join(words) for back, words in patterns])
    for count in range(1, len(parts)):
        directory = "/".join(parts[:count])
        if ignore.leaves_out(directory) and not ignore.may_bring_back_below(directory):
            assert ignore.leaves_out("/".join(parts))


def test_members_are_described_as_docker_does(tmp_path: Path) -> None:
    plant(tmp_path, "Dockerfile", "run", "dir/", "long/" + "x" * 120 + "/" + "é" * 60)
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "link").symlink_to("nowhere")
    os.link(tmp_path / "run", tmp_path / "same")
    os.utime(tmp_path / "run", (-5.5, -5.5))
    (tmp_path / "big").write_bytes(b"x" * (2 * PIECE + 1))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        members = unpacked(Context.of(tmp_path))
    assert stat.S_IMODE(members["run"].mode) == 0o755
    assert (members["run"].uid, members["run"].gid, members["run"].uname) == (0, 0, "")
    assert (members["link"].issym(), members["link"].linkname) == (True, "nowhere")
    assert (members["same"].islnk(), members["same"].linkname) == (True, "run")
    assert members["dir"].isdir()
    assert "long/" + "x" * 120 + "/" + "é" * 60 in members
    assert members["big"].size == 2 * PIECE + 1
    assert "sock" not in members
    assert content(Context.of(tmp_path), "big") == b"x" * (2 * PIECE + 1)


def test_names_need_not_be_text(tmp_path: Path) -> None:
    plant(tmp_path, "Dockerfile")
    (tmp_path / os.fsdecode(b"\xff\xfe")).write_text("x")
    assert os.fsdecode(b"\xff\xfe") in unpacked(Context.of(tmp_path))


def test_nothing_is_held_in_memory(tmp_path: Path) -> None:
    plant(tmp_path, "Dockerfile")
    (tmp_path / "big").write_bytes(b"")
    os.truncate(tmp_path / "big", 1 << 30)
    pieces = Context.of(tmp_path).pieces()
    assert max(len(next(pieces)) for _ in range(100)) <= PIECE


def test_another_dockerfile_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "ctx/docker/Dockerfile.prod", "ctx/a", "ctx/we[i]rd!")
    (tmp_path / "ctx" / IGNORE_FILE).write_text("docker\nwe*\n")
    context = Context.of(tmp_path / "ctx", str(tmp_path / "ctx/docker/Dockerfile.prod"))
    assert context.dockerfile == "docker/Dockerfile.prod"
    assert "docker/Dockerfile.prod" in unpacked(context)
    monkeypatch.chdir(tmp_path)
    assert Context.of(Path("ctx"), "docker/Dockerfile.prod").dockerfile == "docker/Dockerfile.prod"
    assert Context.of(Path("ctx"), "ctx/docker/Dockerfile.prod").dockerfile == "docker/Dockerfile.prod"
    assert "we[i]rd!" in unpacked(Context.of(Path("ctx"), "we[i]rd!"))


def test_a_dockerfile_from_elsewhere_goes_along_and_is_kept_out_of_the_image(tmp_path: Path) -> None:
    plant(tmp_path, "ctx/a", "other/Dockerfile", f"ctx/{FOREIGN_DOCKERFILE}")
    (tmp_path / "ctx" / IGNORE_FILE).write_text("*.log")
    context = Context.of(tmp_path / "ctx", str(tmp_path / "other/Dockerfile"))
    assert context.dockerfile == FOREIGN_DOCKERFILE
    assert sorted(unpacked(context)) == sorted([IGNORE_FILE, "a", FOREIGN_DOCKERFILE])
    assert content(context, FOREIGN_DOCKERFILE) == b"other/Dockerfile"
    assert content(context, IGNORE_FILE).decode().split() == ["*.log", IGNORE_FILE, FOREIGN_DOCKERFILE]


def test_nothing_to_build_from(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="is not a directory"):
        Context.of(tmp_path / "none")
    with pytest.raises(InvalidInputError, match=r"there is no .*/Dockerfile: name it with --file"):
        Context.of(tmp_path)
    with pytest.raises(InvalidInputError, match=r"there is no .*/other$"):
        Context.of(tmp_path, "other")
    plant(tmp_path, "Dockerfile")
    (tmp_path / IGNORE_FILE).write_text("a\n[b\n")
    with pytest.raises(InvalidInputError, match=r"\.dockerignore: '\[b' is not a pattern"):
        Context.of(tmp_path)
    (tmp_path / IGNORE_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Context.of(tmp_path)


def test_what_nobody_lets_us_look_at_is_named(tmp_path: Path) -> None:
    for root, dockerfile in ((Path("x" * 300), ""), (plant(tmp_path, "Dockerfile"), "x" * 300)):
        with pytest.raises(InvalidInputError, match="x cannot be read: File name too long"):
            Context.of(root, dockerfile)


def test_directories_may_lie_as_deep_as_paths_go(tmp_path: Path) -> None:
    plant(tmp_path, "Dockerfile", "e")
    subprocess.run(["mkdir", "-p", tmp_path / ("d/" * 1500)], check=True)
    try:
        found = unpacked(Context.of(tmp_path))
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)
    assert [name for name in found if not name.startswith("d/d")] == ["Dockerfile", "d", "e"]
    assert len(found) == 1502


@pytest.mark.filterwarnings("error")
def test_a_pattern_that_a_later_python_may_read_otherwise_is_no_warning() -> None:
    assert Ignore(["[[]"]).leaves_out("[")


def test_a_file_that_shrinks_while_it_is_sent_is_not_made_up(tmp_path: Path) -> None:
    plant(tmp_path, "Dockerfile")
    (tmp_path / "a").write_bytes(b"x" * (4 * PIECE))
    pieces = Context.of(tmp_path).pieces()
    for piece in pieces:
        if piece == b"x" * PIECE:
            break
    os.truncate(tmp_path / "a", PIECE)
    with pytest.raises(InvalidInputError, match="became shorter"):
        list(pieces)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    plant(tmp_path, "Dockerfile", "a", "b")
    pieces = Context.of(tmp_path).pieces()
    next(pieces)
    (tmp_path / "b").unlink()
    with pytest.raises(InvalidInputError, match=r"/b cannot be read: No such file"):
        list(pieces)
