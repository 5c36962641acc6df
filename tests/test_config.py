"""The configuration file, the environment over it, and the directories."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from discod.config import (
    Config,
    config_schema,
    config_template,
    find_paths,
    load_config,
    parse_listen,
    parse_signaling,
    write_template,
)
from discod.config.paths import MAX_SOCKET_PATH, check_private, short_socket
from discod.errors import BadConfig, Exit, PermissionProblem

FULL = """
schema = 1
name = "clinic-a"
[network]
signaling = ["signal.example.org:8765", "ws://127.0.0.1:9"]
listen = "off"
relay = "only"
[compute]
device = "CPU"
threads = 3
[policy]
min_peers = 4
[log]
level = "debug"
[[dataset]]
alias = "scans"
path = "scans.npz"
"""


def load(tmp_path: Path, text: str, **environ: str) -> Config:
    (tmp_path / "config.toml").write_text(text)
    return load_config(tmp_path / "config.toml", environ)


def test_every_setting_is_read(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    assert config.name == "clinic-a"
    assert config.network.signaling == ("signal.example.org:8765", "ws://127.0.0.1:9")
    assert (config.network.listen, config.network.relay) == ("off", "only")
    assert (config.compute.device, config.compute.threads) == ("CPU", 3)
    assert (config.policy.min_peers, config.log.level) == (4, "debug")
    assert find_paths(tmp_path).of_entry(config.dataset[0]) == tmp_path / "scans.npz"


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    assert load_config(tmp_path / "config.toml", {}) == Config()
    assert Config().network.listen == "[::]:7340"


@pytest.mark.parametrize(
    ("text", "why", "hint"),
    [
        ('[network]\nlisen = "off"', "no setting 'network.lisen'", "network.listen?"),
        ("[polcy]\nmin_peers = 3", "no setting 'polcy'", "policy"),
        ('listen = "off"', "no setting 'listen'", "network.listen?"),
        ("[[dataset]]\nalais = 1", "no setting 'dataset.alais'", "dataset.alias?"),
        ('[network]\nmax_upload = "2 MB/s"', "no setting 'network.max_upload'", "the settings are"),
        ('[compute]\nthreads = "two"', "compute.threads: expected int, got str", "threads of the training process"),
        ("[compute]\nthreads = -1", "compute.threads: expected int >= 0", "threads of the training process"),
        ("[policy]\nmin_peers = 1", "policy.min_peers: expected int >= 2", "never enter a smaller round"),
        ('[network]\nrelay = "yes"', "network.relay: invalid enum value 'yes'", "auto, never or only"),
        ('[network]\nlisten = "7340"', "network.listen: '7340': it must be HOST:PORT", "HOST:PORT"),
        ('[network]\nlisten = "[::]:70000"', "port 70000 does not exist", "HOST:PORT"),
        ('[network]\nsignaling = ["http://x"]', "network.signaling: 'http://x': it must be HOST", "HOST"),
        ("[network]\nsignaling = 3", "network.signaling: expected array, got int", "signaling nodes"),
        ("network = 3", "network: expected object, got int", ""),
        ("schema = 2", "schema: invalid enum value 2", ""),
        ('name = "a\\tb"', "cannot be shown", "printable"),
        ("name = clinic-a", "not TOML", "quotes"),
        ('[[dataset]]\nalias = "a"\npath = "x"\n[[dataset]]\nalias = "a"\npath = "y"', "two data sets", "own alias"),
        ('[[dataset]]\nalias = "A b"\npath = "x"', "expected str matching regex", ""),
    ],
)
def test_a_mistake_is_named_with_what_to_try(tmp_path: Path, text: str, why: str, hint: str) -> None:
    with pytest.raises(BadConfig) as caught:
        load(tmp_path, text)
    assert why in caught.value.message
    assert str(tmp_path / "config.toml") in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit == Exit.BAD_CONFIG


def test_the_environment_goes_over_dropins_and_these_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d" / "10-a.toml").write_text('[network]\nlisten = "[::]:1"\nrelay = "never"\n')
    (tmp_path / "config.d" / "20-b.toml").write_text('[network]\nlisten = "[::]:2"\n')
    config = load(tmp_path, FULL)
    assert (config.network.listen, config.network.relay, config.compute.threads) == ("[::]:2", "never", 3)
    config = load(
        tmp_path,
        FULL,
        DISCOD_NETWORK_LISTEN="[::]:3",
        DISCOD_NETWORK_SIGNALING="a, b:7",
        DISCOD_COMPUTE_THREADS="5",
        DISCOD_POLICY_MIN_PEERS="6",
        DISCOD_NAME="other",
        DISCOD_INVITE="discod://secret",
        DISCOD_HOME="x",
    )
    assert (config.network.listen, config.network.signaling) == ("[::]:3", ("a", "b:7"))
    assert (config.compute.threads, config.policy.min_peers, config.name) == (5, 6, "other")


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("DISCOD_NETWORK_LISTN", "off", "DISCOD_NETWORK_LISTN is no setting"),
        ("DISCOD_COMPUTE_THREADS", "two", "DISCOD_COMPUTE_THREADS must be a whole number, not 'two'"),
        ("DISCOD_NETWORK_RELAY", "yes", "the environment: network.relay"),
    ],
)
def test_a_mistake_in_the_environment_is_named(tmp_path: Path, variable: str, value: str, why: str) -> None:
    with pytest.raises(BadConfig) as caught:
        load(tmp_path, "", **{variable: value})
    assert why in caught.value.message


def test_a_file_that_cannot_be_read_is_exit_77(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(PermissionProblem):
        load_config(tmp_path / "config.toml", {})


def test_the_template_changes_nothing_but_the_name_until_a_line_is_uncommented(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert write_template(path, 'Zürich "2"')
    assert load_config(path, {}) == Config(name='Zürich "2"')
    assert not write_template(path, "other")
    assert path.stat().st_mode & 0o777 == 0o600
    lines = [line.removeprefix("# ") for line in config_template("x").splitlines()[3:]]
    uncommented = "\n".join(line for line in lines if "scans" not in line and line != "[[dataset]]")
    assert load(tmp_path, 'name = "x"\n' + uncommented) == Config(name="x")
    tomllib.loads("\n".join(lines))


def test_the_schema_describes_every_section() -> None:
    assert {"Network", "Compute", "Policy", "Log", "DatasetEntry"} <= set(config_schema()["$defs"])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[::]:7340", ("::", 7340)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("off", None),
        ("host-1.example:9", ("host-1.example", 9)),
    ],
)
def test_listen_addresses(text: str, address: tuple[str, int] | None) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("signal.example.org", ("signal.example.org", 8765, True)),
        ("[::1]:9", ("::1", 9, True)),
        ("ws://127.0.0.1:80/", ("127.0.0.1", 80, False)),
        ("wss://h", ("h", 8765, True)),
    ],
)
def test_signaling_addresses(text: str, address: tuple[str, int, bool]) -> None:
    assert parse_signaling(text) == address


@pytest.mark.parametrize("text", ["", "a b", "http://x", "x:y", "x:99999", "x:0", "ws://x/path", "::1:7"])
def test_bad_signaling_addresses(text: str) -> None:
    with pytest.raises(ValueError):
        parse_signaling(text)


def test_a_home_holds_everything_but_the_cache(tmp_path: Path) -> None:
    paths = find_paths(tmp_path / "h", {"DISCOD_CACHE": str(tmp_path / "cache")})
    assert (paths.config, paths.state) == (tmp_path / "h" / "config.toml", tmp_path / "h" / "state")
    assert paths.socket == tmp_path / "h" / "control.sock"
    assert paths.cache == tmp_path / "cache"
    assert paths.identity == tmp_path / "h" / "state" / "identity.key"
    assert find_paths(None, {"DISCOD_HOME": str(tmp_path / "h"), "DISCOD_CACHE": str(tmp_path / "cache")}) == paths
    assert find_paths("other", {"DISCOD_HOME": "x"}).home == Path("other").absolute()


def test_without_a_home_the_platforms_directories_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, place in (("CONFIG_HOME", "/c"), ("STATE_HOME", "/s"), ("CACHE_HOME", "/k")):
        monkeypatch.setenv(f"XDG_{variable}", place)
    paths = find_paths(None, {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert paths.socket == tmp_path / "discod" / "control.sock"
    lost = find_paths(None, {"XDG_RUNTIME_DIR": str(tmp_path / "gone")})
    assert str(lost.socket) == f"/tmp/discod-{os.getuid()}/control.sock"
    assert str(paths.config) == "/c/discod/config.toml"
    assert str(paths.state) == "/s/discod"
    assert str(paths.cache) == "/k/discod"


def test_directories_are_made_private(tmp_path: Path) -> None:
    paths = find_paths(tmp_path / "a" / "h", {"DISCOD_CACHE": str(tmp_path / "cache")})
    paths.create()
    paths.create()
    for directory in (tmp_path / "a" / "h", paths.state, paths.cache):
        assert directory.stat().st_mode & 0o777 == 0o700
    paths.state.chmod(0o750)
    with pytest.raises(PermissionProblem, match="open to others"):
        paths.create()


def test_a_directory_that_cannot_be_made_is_exit_77(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PermissionProblem, match="cannot make"):
        find_paths(tmp_path / "file" / "h", {"DISCOD_CACHE": str(tmp_path)}).create()


def test_a_long_socket_path_moves_and_stays_the_same(tmp_path: Path) -> None:
    fits = Path("/") / ("x" * (MAX_SOCKET_PATH - 1))
    assert short_socket(fits) == fits
    long = Path(f"{fits}x")
    assert short_socket(long) == short_socket(long) != short_socket(Path(f"{fits}y"))
    assert len(os.fsencode(short_socket(long))) <= MAX_SOCKET_PATH
    assert short_socket(long).parent.name == f"discod-{os.getuid()}"
    wide = Path("/" + "ü" * 54)  # 109 bytes in 55 characters
    assert short_socket(wide) != wide


def test_a_squatted_socket_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discod.config.paths.SHORT_ROOT", tmp_path)
    squatted = tmp_path / f"discod-{os.getuid()}"
    squatted.mkdir(mode=0o700)
    squatted.chmod(0o777)
    paths = find_paths(tmp_path / ("x" * 100), {"DISCOD_CACHE": str(tmp_path / "cache")})
    assert paths.socket.parent == squatted
    with pytest.raises(PermissionProblem, match="open to others"):
        paths.create()
    squatted.rmdir()
    squatted.symlink_to(tmp_path)
    with pytest.raises(PermissionProblem, match="not a directory"):
        check_private(squatted)
