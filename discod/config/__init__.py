"""What a person may set, and where discod keeps its files."""

from discod.config.addresses import LISTEN_PORT, SignalingAddress, parse_listen, parse_signaling
from discod.config.paths import Paths, find_paths
from discod.config.settings import (
    Compute,
    Config,
    DatasetEntry,
    Log,
    Network,
    Policy,
    config_schema,
    load_config,
)
from discod.config.template import config_template, write_template

__all__ = [
    "LISTEN_PORT",
    "Compute",
    "Config",
    "DatasetEntry",
    "Log",
    "Network",
    "Paths",
    "Policy",
    "SignalingAddress",
    "config_schema",
    "config_template",
    "find_paths",
    "load_config",
    "parse_listen",
    "parse_signaling",
    "write_template",
]
